// Members of a group on both sides, for the tests of sender keys.
import { randomUUID } from 'node:crypto';
import { signal } from './signal.js';
import { SenderKeys, bytes } from './sealed.js';

const { ProtocolAddress, SenderKeyDistributionMessage } = signal;
const raw = (uuid) => Buffer.from(uuid.replaceAll('-', ''), 'hex');

// GoTalker and SignalTalker speak with one sender key in one distribution; rotate
// makes a new one.
export class GoTalker {
  kind = 'go';
  constructor(peer, id, seed) {
    Object.assign(this, { peer, id, seed, address: ProtocolAddress.new(randomUUID(), 1), name: randomUUID() });
  }
  async rotate(seed = this.seed) {
    await this.peer.call('group-sender', { device: this.name, key: raw(this.id), seed });
    return this;
  }
  async distribution() {
    return (await this.peer.call('group-distribution', { device: this.name })).body;
  }
  // say encrypts a text times times and returns the last message.
  async say(text, times = 1) {
    return (await this.peer.call('group-encrypt', { device: this.name, body: Buffer.from(text), iterations: times, seed: this.seed })).body;
  }
}

export class SignalTalker {
  kind = 'libsignal';
  constructor(id) {
    Object.assign(this, { id, address: ProtocolAddress.new(randomUUID(), 1) });
  }
  async rotate() {
    this.store = new SenderKeys();
    await this.distribution();
    return this;
  }
  async distribution() {
    return bytes(await SenderKeyDistributionMessage.create(this.address, this.id, this.store));
  }
  async say(text, times = 1) {
    let m;
    for (let i = 0; i < times; i++) m = await signal.groupEncrypt(this.address, this.id, this.store, Buffer.from(text));
    return bytes(m);
  }
}

// GoListener and SignalListener know one talker.
export class GoListener {
  kind = 'go';
  constructor(peer, id) {
    Object.assign(this, { peer, id, name: randomUUID() });
  }
  async open() {
    await this.peer.call('group-receiver', { device: this.name, key: raw(this.id) });
    return this;
  }
  async process(body) {
    await this.peer.call('group-process', { device: this.name, body });
  }
  async read(body) {
    return (await this.peer.call('group-decrypt', { device: this.name, body })).plaintext.toString();
  }
}

export class SignalListener {
  kind = 'libsignal';
  constructor(address) {
    this.address = address;
    this.store = new SenderKeys();
  }
  async open() {
    return this;
  }
  async process(body) {
    await signal.processSenderKeyDistributionMessage(this.address, SenderKeyDistributionMessage.deserialize(body), this.store);
  }
  async read(body) {
    return Buffer.from(await signal.groupDecrypt(this.address, this.store, body)).toString();
  }
}
