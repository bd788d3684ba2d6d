// The edge cases in which libsignal is a party, checked live: each outcome must
// be the same on both sides.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { Peer, GoEnd } from './lib/peer.js';
import { SignalEnd, signal } from './lib/signal.js';
import { signalMessage, preKeyMessage } from './lib/wire.js';

const day = 24 * 3600 * 1000;
const { ErrorCode } = signal;

let peer;
before(() => {
  peer = new Peer();
});
after(() => peer.close());

// names gives both sides' errors one name each.
function refusal(error) {
  if (error.code === ErrorCode.DuplicatedMessage) return 'duplicate';
  if (error.code === ErrorCode.UntrustedIdentity) return 'identity-changed';
  if (typeof error.code === 'string') return error.code;
  return 'refused';
}

async function refused(promise, want) {
  try {
    await promise;
  } catch (error) {
    assert.ok(!(error instanceof TypeError || error instanceof ReferenceError), `a mistake in the harness: ${error.stack}`);
    if (want) assert.equal(refusal(error), want, error.message);
    return error;
  }
  assert.fail('accepted');
}

// bothWays runs a case with each side as the receiver, on an acknowledged
// session that the receiver answered.
function bothWays(name, run, { acknowledged = true, names = randomUUID } = {}) {
  for (const receiverKind of ['Go', 'libsignal']) {
    test(`${name}: ${receiverKind} receives`, async (t) => {
      const go = await new GoEnd(peer, names()).open();
      const lib = new SignalEnd(names());
      const [to, from] = receiverKind === 'Go' ? [go, lib] : [lib, go];
      const bundle = await to.bundle(1);
      await from.initiate(to, bundle);
      if (acknowledged) {
        await to.decrypt(from, await from.encrypt(to, Buffer.from('hello')));
        await from.decrypt(to, await to.encrypt(from, Buffer.from('hello back')));
      }
      const send = (text) => from.encrypt(to, Buffer.from(text));
      const read = async (m, text) => assert.equal((await to.decrypt(from, m)).toString(), text);
      const turn = async () => {
        await from.decrypt(to, await to.encrypt(from, Buffer.from('turn')));
        await read(await send('turn'), 'turn');
      };
      await run({ t, from, to, go, lib, bundle, send, read, turn });
    });
  }
}

bothWays('messages 3, 1, 2 of one chain, then 2 again', async ({ from, to, send, read }) => {
  const [one, two, three] = [await send('1'), await send('2'), await send('3')];
  await read(three, '3');
  await read(one, '1');
  await read(two, '2');
  await refused(to.decrypt(from, two), 'duplicate');
});

bothWays('the fifth-last receiving chain reads, the sixth-last is refused', async ({ from, to, send, read, turn }) => {
  await read(await send('opens the chain'), 'opens the chain');
  const fifth = await send('late');
  const sixth = await send('too late');
  for (let i = 0; i < 4; i++) await turn();
  await read(fifth, 'late');
  await turn();
  await refused(to.decrypt(from, sixth));
  await read(await send('still fine'), 'still fine');
});

bothWays('a gap of 24,999 is read, one of 25,000 is refused and changes nothing', async ({ from, to, send, read }) => {
  const first = await send('1');
  for (let i = 1; i < 24_999; i++) await send('lost');
  const at24999 = await send('24,999');
  const at25000 = await send('25,000');
  await refused(to.decrypt(from, at25000));
  await read(first, '1'); // state unchanged
  await read(at24999, '24,999');
  await read(at25000, '25,000');
});

bothWays('from an equal start 24,999 skipped messages pass', async ({ send, read }) => {
  for (let i = 0; i < 24_999; i++) await send('lost');
  await read(await send('far'), 'far');
});

for (const [gap, want] of [[2000, null], [2001, 'duplicate']]) {
  bothWays(`a gap of ${gap}, then the first skipped`, async ({ from, to, send, read }) => {
    const first = await send('first');
    for (let i = 1; i < gap; i++) await send('lost');
    await read(await send('ahead'), 'ahead');
    if (want) await refused(to.decrypt(from, first), want);
    else await read(first, 'first');
  });
}

bothWays('flipped bits, truncation and other versions are refused; the intact copy reads', async ({ from, to, send, read }) => {
  const m = await send('a text of more than one block of the cipher');
  const altered = (change) => {
    const body = Buffer.from(m.body);
    return { type: m.type, body: change(body) ?? body };
  };
  for (const change of [
    (b) => { b[b.length - 1] ^= 1; },
    (b) => { b[60] ^= 1; },
    (b) => b.subarray(0, b.length - 1),
    (b) => b.subarray(0, 20),
    (b) => { b[0] = 0x24; },
    (b) => { b[0] = 0x34; },
    (b) => { b[0] = 0x54; },
  ]) {
    await refused((async () => to.decrypt(from, altered(change)))());
  }
  await read(m, 'a text of more than one block of the cipher');
});

bothWays('a first message twice is a duplicate', async ({ from, to, send, read }) => {
  const m = await send('first');
  assert.equal(m.type, 3);
  await read(m, 'first');
  await refused(to.decrypt(from, m), 'duplicate');
}, { acknowledged: false });

bothWays('a first message after losing the session: the one-time prekey is missing', async ({ from, to, send, read }) => {
  const m = await send('first');
  await read(m, 'first');
  await to.dropSession(from);
  await refused(to.decrypt(from, m), to.kind === 'go' ? 'unknown-prekey' : undefined);
}, { acknowledged: false });

bothWays('prekey ids nobody knows', async ({ from, to, bundle }) => {
  for (const field of ['signedId', 'kemId', 'oneTimeId']) {
    await from.initiate(to, { ...bundle, [field]: 4242 });
    await refused(to.decrypt(from, await from.encrypt(to, Buffer.from('x'))), to.kind === 'go' ? 'unknown-prekey' : undefined);
  }
}, { acknowledged: false });

bothWays('bundles with a bad signature are refused', async ({ from, to, bundle }) => {
  for (const field of ['signedSignature', 'kemSignature']) {
    const signature = Buffer.from(bundle[field]);
    signature[5] ^= 1;
    await refused(from.initiate(to, { ...bundle, [field]: signature }), from.kind === 'go' ? 'bundle' : undefined);
  }
}, { acknowledged: false });

bothWays('a first message under another address is refused', async ({ from, to, send, read }) => {
  const m = await send('first');
  for (const wrong of [{ name: randomUUID(), number: from.number }, { name: from.name, number: 2 }]) {
    wrong.address = { name: wrong.name, device: wrong.number };
    await refused(to.decrypt(wrong, m), to.kind === 'go' ? 'address' : undefined);
  }
  await read(m, 'first');
}, { acknowledged: false });

bothWays('names that are no UUIDs: no address field', async ({ send, read }) => {
  const m = await send('first');
  assert.equal(signalMessage(m).addresses, undefined);
  await read(m, 'first');
}, { acknowledged: false, names: () => `+1555${Math.floor(Math.random() * 1e7)}` });

bothWays('UUID names: 36 bytes in first messages, nothing later', async ({ from, to, send, read }) => {
  const m = await send('first');
  assert.equal(signalMessage(m).addresses.length, 36);
  await read(m, 'first');
  await from.decrypt(to, await to.encrypt(from, Buffer.from('answer')));
  const later = await send('later');
  assert.equal(later.type, 2);
  assert.equal(signalMessage(later).addresses, undefined);
  await read(later, 'later');
}, { acknowledged: false });

bothWays('a base key that is not canonical is refused', async ({ from, to, send, read }) => {
  const m = await send('first');
  const base = preKeyMessage(m).base;
  const body = Buffer.from(m.body);
  const at = body.indexOf(base);
  body[at + 32] |= 0x80;
  await refused((async () => to.decrypt(from, { type: 3, body }))());
  await read(m, 'first');
}, { acknowledged: false });

bothWays('archive: sending needs a new session, a late message still reads', async ({ from, to, send, read }) => {
  const late = await send('late');
  await to.archive(from);
  await refused(to.encrypt(from, Buffer.from('x')));
  await read(late, 'late');
});

bothWays('the 41st oldest archived session is gone', async ({ from, to, read }) => {
  const late = [];
  for (let i = 0; i < 42; i++) {
    // The receiver initiates, so that it owns the sessions; the peer answers.
    await to.initiate(from, await from.bundle(i + 1));
    await from.decrypt(to, await to.encrypt(from, Buffer.from('begin')));
    late.push(await from.encrypt(to, Buffer.from(`late ${i}`)));
  }
  await refused(to.decrypt(from, late[0]));
  for (let i = 1; i < late.length; i++) await read(late[i], `late ${i}`);
}, { acknowledged: false });

bothWays('an initiated session without answer is unusable after 30 days', async ({ from, to }) => {
  const now = Date.now();
  await from.initiate(to, await to.bundle(2), now);
  await from.encrypt(to, Buffer.from('x'), now + 29 * day);
  await refused(from.encrypt(to, Buffer.from('x'), now + 31 * day), from.kind === 'go' ? 'no-session' : undefined);
}, { acknowledged: false });

bothWays('identity changed: refused until accepted, old-session messages refused afterwards', async ({ from, to, send }) => {
  const old = await send('from the old installation');
  const again = from.kind === 'go'
    ? await new GoEnd(peer, from.name).open()
    : new SignalEnd(from.name);
  const bundle = await again.bundle(77);
  await refused(to.initiate(from, bundle), 'identity-changed');
  await again.initiate(to, await to.bundle(78));
  const first = await again.encrypt(to, Buffer.from('it is me'));
  await refused(to.decrypt(from, first), 'identity-changed');
  await to.pin(from, again.identity);
  assert.equal((await to.decrypt(from, first)).toString(), 'it is me');
  await refused(to.decrypt(from, old), 'identity-changed');
});

test('both start at once; the messages cross and the ends converge', async () => {
  const go = await new GoEnd(peer, randomUUID()).open();
  const lib = new SignalEnd(randomUUID());
  const [forGo, forLib] = [await lib.bundle(1), await go.bundle(1)];
  await go.initiate(lib, forGo);
  await lib.initiate(go, forLib);
  for (let round = 0; round < 2; round++) {
    const [a, b] = [await go.encrypt(lib, Buffer.from(`go ${round}`)), await lib.encrypt(go, Buffer.from(`lib ${round}`))];
    assert.equal((await lib.decrypt(go, a)).toString(), `go ${round}`);
    assert.equal((await go.decrypt(lib, b)).toString(), `lib ${round}`);
  }
  for (let i = 0; i < 10; i++) {
    const a = await go.encrypt(lib, Buffer.from('ping'));
    assert.equal(a.type, 2);
    assert.equal((await lib.decrypt(go, a)).toString(), 'ping');
    assert.equal((await go.decrypt(lib, await lib.encrypt(go, Buffer.from('pong')))).toString(), 'pong');
  }
});

for (const receiverKind of ['Go', 'libsignal']) {
  test(`between devices of one account there is no jump limit: ${receiverKind} receives`, async () => {
    const name = randomUUID();
    const lib = new SignalEnd(name, 1);
    const go = await new GoEnd(peer, name, 2).open({ key: Buffer.from(lib.pair.privateKey.serialize()) });
    const [to, from] = receiverKind === 'Go' ? [go, lib] : [lib, go];
    await from.initiate(to, await to.bundle(1));
    await to.decrypt(from, await from.encrypt(to, Buffer.from('hello')));
    await from.decrypt(to, await to.encrypt(from, Buffer.from('hello back')));
    for (let i = 0; i < 25_100; i++) await from.encrypt(to, Buffer.from('lost'));
    assert.equal((await to.decrypt(from, await from.encrypt(to, Buffer.from('far')))).toString(), 'far');
  });
}

test('a restored snapshot reads the same message again', async () => {
  const go = await new GoEnd(peer, randomUUID()).open();
  const lib = new SignalEnd(randomUUID());
  await lib.initiate(go, await go.bundle(1));
  const m = await lib.encrypt(go, Buffer.from('first'));
  await go.other('snapshot', {});
  for (let i = 0; i < 2; i++) {
    assert.equal((await go.decrypt(lib, m)).toString(), 'first');
    if (i === 0) await go.other('restore', {});
  }
});

test('device ids outside 1 to 127 are refused', async () => {
  const lib = new SignalEnd(randomUUID());
  for (const number of [0, 128, 255]) {
    const go = await new GoEnd(peer, randomUUID(), number).open();
    await refused(go.initiate(lib, await lib.bundle(1)));
    assert.throws(() => new SignalEnd(randomUUID(), number).protocolAddress.toString());
  }
});
