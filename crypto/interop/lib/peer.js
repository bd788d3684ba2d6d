// The Go helper process: one JSON object a line, answered in order.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const bytes = new Set([
  'signature', 'public', 'secret', 'body', 'plaintext', 'identity', 'ratchetKey', 'scannable', 'content',
  'signed', 'signedSignature', 'oneTime', 'kem', 'kemSignature',
]);

function encode(key, value) {
  // JSON.stringify has already called Buffer.toJSON: {type, data}.
  if (value && value.type === 'Buffer' && Array.isArray(value.data)) return Buffer.from(value.data).toString('base64');
  return value;
}

function decode(key, value) {
  return bytes.has(key) && typeof value === 'string' ? Buffer.from(value, 'base64') : value;
}

// PeerError carries the fixed name that the helper gives to an error.
export class PeerError extends Error {
  constructor(name, text) {
    super(`${name}: ${text}`);
    this.code = name;
  }
}

export class Peer {
  #child;
  #waiting = [];

  constructor(path = process.env.INTEROP_PEER) {
    if (!path) throw new Error('INTEROP_PEER names no program; use ./run');
    this.#child = spawn(path, { stdio: ['pipe', 'pipe', 'inherit'] });
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const { resolve, reject } = this.#waiting.shift();
      const answer = JSON.parse(line, decode);
      if (answer.error) reject(new PeerError(answer.error, answer.text));
      else resolve(answer);
    });
    this.#child.on('exit', (code) => {
      for (const w of this.#waiting.splice(0)) w.reject(new Error(`helper ended with ${code}`));
    });
  }

  call(op, fields = {}) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#child.stdin.write(JSON.stringify({ op, ...fields }, encode) + '\n');
    });
  }

  close() {
    this.#child.stdin.end();
  }
}

// GoEnd is one device held by the helper.
export class GoEnd {
  constructor(peer, name, number = 1, registration = 1001) {
    Object.assign(this, { peer, name, number, registration, phases: new Set(), epoch: 1, id: `${name}/${number}/${Math.random()}` });
    this.kind = 'go';
  }

  async open({ chains = 0, key, seed } = {}) {
    const { name, number, registration } = this;
    const r = await this.peer.call('device', { device: this.id, name, number, registration, chains, key, seed });
    this.identity = r.identity;
    return this;
  }

  get address() {
    return { name: this.name, device: this.number };
  }

  #call(op, fields) {
    return this.peer.call(op, { device: this.id, now: Date.now(), ...fields });
  }

  // note remembers where the post-quantum ratchet stands.
  #note(r) {
    if (r.phase) this.phases.add(r.phase);
    if (r.epoch) this.epoch = Math.max(this.epoch, r.epoch);
    return r;
  }

  async bundle(id, oneTime = true, lastResort = false) {
    return (await this.#call('bundle', { id, oneTime, lastResort })).bundle;
  }

  initiate(to, bundle, now) {
    return this.#call('initiate', { peer: to.address, bundle, ...(now && { now }) });
  }

  async encrypt(to, body, now) {
    const r = this.#note(await this.#call('encrypt', { peer: to.address, body, ...(now && { now }) }));
    return { type: r.type, body: r.body };
  }

  async decrypt(from, message) {
    const r = this.#note(await this.#call('decrypt', { peer: from.address, type: message.type, body: message.body }));
    return r.plaintext;
  }

  inspect(of) {
    return this.#call('inspect', { peer: of.address });
  }

  archive(of) {
    return this.#call('archive', { peer: of.address });
  }

  dropSession(of) {
    return this.#call('drop-session', { peer: of.address });
  }

  pin(of, key) {
    return this.#call('pin', { peer: of.address, key });
  }

  other(op, fields) {
    return this.#call(op, fields);
  }
}
