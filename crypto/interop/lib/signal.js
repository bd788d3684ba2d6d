// libsignal in this process: stores in memory and one device per SignalEnd.
import * as signal from '@signalapp/libsignal-client';

class Sessions extends signal.SessionStore {
  kept = new Map();
  async saveSession(address, record) {
    this.kept.set(address.toString(), record.serialize());
  }
  async getSession(address) {
    const b = this.kept.get(address.toString());
    return b ? signal.SessionRecord.deserialize(b) : null;
  }
  async getExistingSessions(addresses) {
    return Promise.all(addresses.map((a) => this.getSession(a)));
  }
}

class Identities extends signal.IdentityKeyStore {
  known = new Map();
  constructor(pair, registration) {
    super();
    this.pair = pair;
    this.registration = registration;
  }
  async getIdentityKey() {
    return this.pair.privateKey;
  }
  async getIdentityKeyPair() {
    return this.pair;
  }
  async getLocalRegistrationId() {
    return this.registration;
  }
  async saveIdentity(address, key) {
    const old = this.known.get(address.name());
    this.known.set(address.name(), key.serialize());
    const replaced = old && !Buffer.from(old).equals(Buffer.from(key.serialize()));
    return replaced ? signal.IdentityChange.ReplacedExisting : signal.IdentityChange.NewOrUnchanged;
  }
  async isTrustedIdentity(address, key) {
    const old = this.known.get(address.name());
    return !old || Buffer.from(old).equals(Buffer.from(key.serialize()));
  }
  async getIdentity(address) {
    const old = this.known.get(address.name());
    return old ? signal.PublicKey.deserialize(old) : null;
  }
}

// records makes a prekey store of one kind from the method names it needs.
class OneTime extends signal.PreKeyStore {
  kept = new Map();
  async savePreKey(id, record) {
    this.kept.set(id, record.serialize());
  }
  async getPreKey(id) {
    if (!this.kept.has(id)) throw new Error(`no one-time prekey ${id}`);
    return signal.PreKeyRecord.deserialize(this.kept.get(id));
  }
  async removePreKey(id) {
    this.kept.delete(id);
  }
}

class Signed extends signal.SignedPreKeyStore {
  kept = new Map();
  async saveSignedPreKey(id, record) {
    this.kept.set(id, record.serialize());
  }
  async getSignedPreKey(id) {
    if (!this.kept.has(id)) throw new Error(`no signed prekey ${id}`);
    return signal.SignedPreKeyRecord.deserialize(this.kept.get(id));
  }
}

class Kyber extends signal.KyberPreKeyStore {
  kept = new Map();
  used = [];
  async saveKyberPreKey(id, record) {
    this.kept.set(id, record.serialize());
  }
  async getKyberPreKey(id) {
    if (!this.kept.has(id)) throw new Error(`no Kyber prekey ${id}`);
    return signal.KyberPreKeyRecord.deserialize(this.kept.get(id));
  }
  async markKyberPreKeyUsed(id, signedId, base) {
    this.used.push({ id, signedId, base: base && Buffer.from(base.serialize()) });
  }
}

const { PublicKey, KEMPublicKey, ProtocolAddress } = signal;

export class SignalEnd {
  constructor(name, number = 1, registration = 2002, pair = signal.IdentityKeyPair.generate()) {
    Object.assign(this, { name, number, registration });
    this.kind = 'libsignal';
    this.pair = pair;
    this.identity = Buffer.from(pair.publicKey.serialize());
    this.protocolAddress = ProtocolAddress.new(name, number);
    this.sessions = new Sessions();
    this.identities = new Identities(pair, registration);
    this.oneTime = new OneTime();
    this.signed = new Signed();
    this.kyber = new Kyber();
  }

  get address() {
    return { name: this.name, device: this.number };
  }

  // bundle makes prekeys and returns them in the helper's form.
  async bundle(id, oneTime = true, kemPair = signal.KEMKeyPair.generate()) {
    const now = Date.now();
    const ec = signal.PrivateKey.generate();
    const ecPublic = Buffer.from(ec.getPublicKey().serialize());
    const ecSignature = Buffer.from(this.pair.privateKey.sign(ecPublic));
    await this.signed.saveSignedPreKey(id, signal.SignedPreKeyRecord.new(id, now, ec.getPublicKey(), ec, ecSignature));
    const kem = Buffer.from(kemPair.getPublicKey().serialize());
    const kemSignature = Buffer.from(this.pair.privateKey.sign(kem));
    await this.kyber.saveKyberPreKey(id, signal.KyberPreKeyRecord.new(id, now, kemPair, kemSignature));
    const b = {
      registration: this.registration,
      device: this.number,
      identity: this.identity,
      signedId: id,
      signed: ecPublic,
      signedSignature: ecSignature,
      kemId: id,
      kem,
      kemSignature,
    };
    if (oneTime) {
      const one = signal.PrivateKey.generate();
      await this.oneTime.savePreKey(id, signal.PreKeyRecord.new(id, one.getPublicKey(), one));
      b.oneTimeId = id;
      b.oneTime = Buffer.from(one.getPublicKey().serialize());
    }
    return b;
  }

  async initiate(to, b, now = Date.now()) {
    const bundle = signal.PreKeyBundle.new(
      b.registration,
      b.device,
      b.oneTimeId ?? null,
      b.oneTime ? PublicKey.deserialize(b.oneTime) : null,
      b.signedId,
      PublicKey.deserialize(b.signed),
      b.signedSignature,
      PublicKey.deserialize(b.identity),
      b.kemId,
      KEMPublicKey.deserialize(b.kem),
      b.kemSignature,
    );
    const peer = ProtocolAddress.new(to.name, to.number);
    await signal.processPreKeyBundle(bundle, peer, this.protocolAddress, this.sessions, this.identities, new Date(now));
  }

  async encrypt(to, body, now = Date.now()) {
    const peer = ProtocolAddress.new(to.name, to.number);
    const m = await signal.signalEncrypt(body, peer, this.protocolAddress, this.sessions, this.identities, new Date(now));
    return { type: m.type(), body: Buffer.from(m.serialize()) };
  }

  async decrypt(from, message) {
    const peer = ProtocolAddress.new(from.name, from.number);
    if (message.type === signal.CiphertextMessageType.PreKey) {
      const m = signal.PreKeySignalMessage.deserialize(message.body);
      return Buffer.from(await signal.signalDecryptPreKey(
        m, peer, this.protocolAddress, this.sessions, this.identities, this.oneTime, this.signed, this.kyber));
    }
    const m = signal.SignalMessage.deserialize(message.body);
    return Buffer.from(await signal.signalDecrypt(m, peer, this.protocolAddress, this.sessions, this.identities));
  }

  async archive(of) {
    const peer = ProtocolAddress.new(of.name, of.number);
    const record = await this.sessions.getSession(peer);
    record.archiveCurrentState();
    await this.sessions.saveSession(peer, record);
  }

  async dropSession(of) {
    this.sessions.kept.delete(ProtocolAddress.new(of.name, of.number).toString());
  }

  async pin(of, key) {
    this.identities.known.set(of.name, key);
  }
}

export { signal };
