// What the tests of sealed sender share: certificate offices on both sides, and
// libsignal ends that know sender keys.
import { signal } from './signal.js';

// Read by tests only; the package does not export it with the rest.
const { default: MultiRecipientMessage } = await import(
  new URL('../node_modules/@signalapp/libsignal-client/dist/SealedSenderMultiRecipientMessage.js', import.meta.url).href
);
export { MultiRecipientMessage };

export const bytes = (x) => Buffer.from(x.serialize());

// account is the fixed-width service id of a UUID.
export const account = (uuid) => Buffer.concat([Buffer.from([0]), Buffer.from(uuid.replaceAll('-', ''), 'hex')]);

export const flipped = (b, bit) => {
  const c = Buffer.from(b);
  c[bit >> 3] ^= 1 << (bit & 7);
  return c;
};

// SignalOffice issues certificates with libsignal.
export class SignalOffice {
  constructor(id = 7) {
    this.rootKey = signal.PrivateKey.generate();
    this.key = signal.PrivateKey.generate();
    this.root = bytes(this.rootKey.getPublicKey());
    this.server = signal.ServerCertificate.new(id, this.key.getPublicKey(), this.rootKey);
  }
  async issue(end, expires, phone = null) {
    const identity = signal.PublicKey.deserialize(end.identity);
    return bytes(signal.SenderCertificate.new(end.name, phone, end.number, identity, expires, this.server, this.key));
  }
}

// GoOffice issues certificates with the Go side.
export class GoOffice {
  constructor(peer) {
    this.peer = peer;
  }
  async open(id = 9, { rootKey, key, seed } = {}) {
    this.rootKey = rootKey ?? bytes(signal.PrivateKey.generate());
    this.key = key ?? bytes(signal.PrivateKey.generate());
    const publicOf = (k) => bytes(signal.PrivateKey.deserialize(k).getPublicKey());
    this.root = publicOf(this.rootKey);
    const r = await this.peer.call('issue-server', { key: this.rootKey, other: publicOf(this.key), id, seed });
    this.server = r.body;
    return this;
  }
  async issue(end, expires, seed) {
    const r = await this.peer.call('issue-sender', {
      key: this.key, certificate: this.server, account: account(end.name), number: end.number, other: end.identity, now: expires, seed,
    });
    return r.body;
  }
}

export class SenderKeys extends signal.SenderKeyStore {
  kept = new Map();
  async saveSenderKey(sender, id, record) {
    this.kept.set(`${sender.toString()}/${id}`, record.serialize());
  }
  async getSenderKey(sender, id) {
    const b = this.kept.get(`${sender.toString()}/${id}`);
    return b ? signal.SenderKeyRecord.deserialize(b) : null;
  }
}

// openFully is what an app calls: certificate, self-send check and session.
export function openFully(end, sealed, root, now, name = end.name, number = end.number) {
  return signal.sealedSenderDecryptMessage(
    sealed, signal.PublicKey.deserialize(root), now, null, name, number,
    end.sessions, end.identities, end.oneTime, end.signed, end.kyber,
  );
}

// unseal stops before the message inside; it looks at no signature and no time.
export const unseal = (end, sealed) => signal.sealedSenderDecryptToUsmc(sealed, end.identities);

export function sealMany(from, content, recipients, excluded = []) {
  return signal.sealedSenderMultiRecipientEncrypt({
    content,
    recipients: recipients.map((r) => signal.ProtocolAddress.new(r.name, r.number)),
    excludedRecipients: excluded.map((n) => signal.ServiceId.parseFromServiceIdString(n)),
    identityStore: from.identities,
    sessionStore: from.sessions,
  }).then((b) => Buffer.from(b));
}
