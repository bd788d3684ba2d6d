// A minimal reader for the fields of Signal Protocol messages, as far as the
// harness looks into them.

function varint(b, at) {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n) {
    const c = b[at++];
    value |= BigInt(c & 0x7f) << shift;
    if (c < 0x80) return [Number(value), at];
  }
}

function fields(b) {
  const out = new Map();
  for (let at = 0; at < b.length; ) {
    let tag, value;
    [tag, at] = varint(b, at);
    if ((tag & 7) === 0) {
      [value, at] = varint(b, at);
    } else {
      let size;
      [size, at] = varint(b, at);
      value = b.subarray(at, at + size);
      at += size;
    }
    out.set(tag >> 3, value);
  }
  return out;
}

// signalMessage returns ratchet key (hex), counter, post-quantum bytes and
// addresses of a message of either type.
export function signalMessage({ type, body }) {
  if (type === 3) body = fields(body.subarray(1)).get(4);
  const f = fields(body.subarray(1, body.length - 8));
  return { ratchetKey: f.get(1).toString('hex'), counter: f.get(2), pq: f.get(5), addresses: f.get(6) };
}

export function preKeyMessage({ body }) {
  const f = fields(body.subarray(1));
  return { oneTime: f.get(1), base: f.get(2), identity: f.get(3), inner: f.get(4), registration: f.get(5), signed: f.get(6), kem: f.get(7), kemCipher: f.get(8) };
}

// pqMessage returns version, epoch, counter, kind and chunk index of the
// post-quantum field.
export function pqMessage(b) {
  let epoch, counter, index;
  let at = 1;
  [epoch, at] = varint(b, at);
  [counter, at] = varint(b, at);
  const kind = b[at++];
  if (kind !== 0 && kind !== 4) [index, at] = varint(b, at);
  return { version: b[0], epoch, counter, kind, index };
}
