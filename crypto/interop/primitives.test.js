// Call map rows 1, 2, 3 and 12: signatures, key agreement, Kyber keys, safety
// numbers; row 13, decryption errors; and the key derivation of row 14.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { Peer, GoEnd } from './lib/peer.js';
import { SignalEnd, signal } from './lib/signal.js';

const { PrivateKey, PublicKey, KEMKeyPair, KEMPublicKey, KyberPreKeyRecord, Fingerprint, ScannableFingerprint } = signal;

let peer;
before(() => {
  peer = new Peer();
});
after(() => peer.close());

const bytes = (x) => Buffer.from(x.serialize());
const flipped = (b, bit) => {
  const c = Buffer.from(b);
  c[bit >> 3] ^= 1 << (bit & 7);
  return c;
};

test('row 1: signatures both ways, messages of 0 to 199 bytes and large ones', async () => {
  for (let i = 0; i < 202; i++) {
    const key = PrivateKey.generate();
    const secret = bytes(key);
    const pub = bytes(key.getPublicKey());
    const body = randomBytes(i < 200 ? i : 100_000 * (i - 199));
    assert.deepEqual((await peer.call('public', { key: secret })).public, pub);

    const ours = (await peer.call('sign', { key: secret, body })).signature;
    assert.ok(key.getPublicKey().verify(body, ours), `libsignal refuses our signature over ${body.length} bytes`);
    const theirs = Buffer.from(key.sign(body));
    assert.ok((await peer.call('verify', { key: pub, body, signature: theirs })).valid, 'we refuse theirs');

    // Bit 511 is the sign of the Edwards key and must count as well.
    for (const bit of [0, 255, 256, 511, (i * 37) % 512]) {
      const bad = flipped(ours, bit);
      assert.ok(!key.getPublicKey().verify(body, bad), `libsignal accepts a signature with bit ${bit} flipped`);
      assert.ok(!(await peer.call('verify', { key: pub, body, signature: bad })).valid, `we accept bit ${bit} flipped`);
    }
    if (body.length) {
      const other = flipped(body, 3);
      assert.ok(!(await peer.call('verify', { key: pub, body: other, signature: theirs })).valid);
      assert.ok(!key.getPublicKey().verify(other, ours));
    }
  }
});

test('row 2: key agreement is equal, low-order points are refused', async () => {
  for (let i = 0; i < 100; i++) {
    const a = PrivateKey.generate();
    const b = PrivateKey.generate();
    const secret = Buffer.from(a.agree(b.getPublicKey()));
    assert.deepEqual((await peer.call('dh', { key: bytes(b), other: bytes(a.getPublicKey()) })).secret, secret);
  }
  const key = bytes(PrivateKey.generate());
  const order8 = Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex');
  for (const u of [Buffer.alloc(32), Buffer.concat([Buffer.from([1]), Buffer.alloc(31)]), order8]) {
    await assert.rejects(peer.call('dh', { key, other: Buffer.concat([Buffer.from([5]), u]) }), { code: 'low-order' });
  }
});

test('row 3: Kyber keys load on the other side; other types are refused', async () => {
  const go = await new GoEnd(peer, randomUUID()).open();
  const lib = new SignalEnd(randomUUID());

  // Ours into libsignal: a record in protobuf with our key in it.
  const b = await go.bundle(7, false);
  const { secret } = await go.other('kem-secret', { id: 7 });
  const field = (n, v) => Buffer.concat([Buffer.from([n << 3 | 2, (v.length & 0x7f) | 0x80, v.length >> 7]), v]);
  const record = KyberPreKeyRecord.deserialize(Buffer.concat([
    Buffer.from([0x08, 7]), field(2, b.kem), field(3, secret),
    Buffer.from([0x22, 64]), b.kemSignature, Buffer.from([0x29]), Buffer.alloc(8, 1),
  ]));
  assert.deepEqual(bytes(record.publicKey()), b.kem);
  assert.deepEqual(bytes(record.secretKey()), secret);
  assert.equal(record.id(), 7);

  // ... and in use: libsignal answers an agreement with our key.
  const forGo = await lib.bundle(7, false, record.keyPair());
  await go.initiate(lib, forGo);
  assert.equal((await lib.decrypt(go, await go.encrypt(lib, Buffer.from('hello')))).toString(), 'hello');

  // Theirs into ours, in use as well.
  const pair = KEMKeyPair.generate();
  assert.deepEqual((await peer.call('kem-public', { key: bytes(pair.getSecretKey()) })).public, bytes(pair.getPublicKey()));
  const go2 = await new GoEnd(peer, randomUUID()).open({ key: bytes(lib.pair.privateKey) });
  const bundle = await go2.bundle(9, true);
  await go2.other('load-kem', { id: 9, key: bytes(pair.getSecretKey()), other: bytes(pair.getPublicKey()) });
  bundle.kem = bytes(pair.getPublicKey());
  bundle.kemSignature = Buffer.from(lib.pair.privateKey.sign(bundle.kem));
  const lib2 = new SignalEnd(randomUUID());
  await lib2.initiate(go2, bundle);
  assert.equal((await go2.decrypt(lib2, await lib2.encrypt(go2, Buffer.from('hi')))).toString(), 'hi');

  for (const type of [0x05, 0x07, 0x09, 0x0a]) {
    const other = Buffer.from(b.kem);
    other[0] = type;
    assert.throws(() => KEMPublicKey.deserialize(other), `libsignal accepts type ${type}`);
    assert.equal((await peer.call('kem-check', { key: other })).valid, false, `we accept type ${type}`);
  }
  assert.equal((await peer.call('kem-check', { key: b.kem })).valid, true);
});

test('row 12: safety numbers, digits and scannable bytes; mismatch; version', async () => {
  for (const iterations of [1024, 5200]) {
    const [a, b] = [PrivateKey.generate().getPublicKey(), PrivateKey.generate().getPublicKey()];
    const [idA, idB] = [randomBytes(16), randomBytes(16)];
    const mine = Fingerprint.new(iterations, 2, idA, a, idB, b);
    const theirs = Fingerprint.new(iterations, 2, idB, b, idA, a);
    const theirCode = Buffer.from(theirs.scannableFingerprint().toBuffer());
    const question = { iterations, localId: idA, key: bytes(a), remoteId: idB, other: bytes(b) };
    const ours = await peer.call('safety-number', { ...question, body: theirCode });
    assert.equal(ours.digits, mine.displayableFingerprint().toString());
    assert.deepEqual(ours.scannable, Buffer.from(mine.scannableFingerprint().toBuffer()));
    assert.equal(ours.matches, true);
    assert.ok(theirs.scannableFingerprint().compare(ScannableFingerprint._fromBuffer(ours.scannable)), 'libsignal does not match our code');

    const c = PrivateKey.generate().getPublicKey();
    const foreign = Buffer.from(Fingerprint.new(iterations, 2, idB, c, idA, a).scannableFingerprint().toBuffer());
    assert.equal((await peer.call('safety-number', { ...question, body: foreign })).matches, false);
    assert.equal(mine.scannableFingerprint().compare(ScannableFingerprint._fromBuffer(foreign)), false);

    const old = Buffer.from(Fingerprint.new(iterations, 1, idB, b, idA, a).scannableFingerprint().toBuffer());
    await assert.rejects(peer.call('safety-number', { ...question, body: old }), { code: 'scannable-version' });
    assert.throws(() => mine.scannableFingerprint().compare(ScannableFingerprint._fromBuffer(old)));
  }
});

test('row 13: decryption errors read the same on both sides', async () => {
  const go = await new GoEnd(peer, randomUUID()).open();
  const lib = new SignalEnd(randomUUID());
  await go.initiate(lib, await lib.bundle(1));
  const first = await go.encrypt(lib, Buffer.from('unreadable'));
  const now = 1_800_000_000_123;
  const ours = await peer.call('decryption-error', { type: first.type, body: first.body, now, number: 5 });
  const theirs = signal.DecryptionErrorMessage.forOriginal(first.body, first.type, now, 5);
  const content = Buffer.from(signal.PlaintextContent.from(theirs).serialize());
  assert.deepEqual(ours.content, content);
  const read = await peer.call('parse-plaintext', { body: content });
  assert.deepEqual([read.timestamp, read.device], [now, 5]);
  assert.deepEqual(read.ratchetKey, Buffer.from(theirs.ratchetKey().serialize()));
  const body = Buffer.from(signal.PlaintextContent.deserialize(ours.content).body());
  const back = signal.DecryptionErrorMessage.extractFromSerializedBody(body);
  assert.equal(Number(back.timestamp()), now);
  assert.equal(back.deviceId(), 5);
  assert.deepEqual((await go.inspect(lib)).ratchetKey, read.ratchetKey);
});

test('row 13: of a message for a group, and of one that deserves no answer', async () => {
  const now = 1_800_000_000_123;
  const body = randomBytes(100);
  const ours = await peer.call('decryption-error', { type: 7, body, now, number: 5 });
  const theirs = signal.DecryptionErrorMessage.forOriginal(body, signal.CiphertextMessageType.SenderKey, now, 5);
  assert.equal(theirs.ratchetKey(), undefined);
  assert.equal(ours.ratchetKey, undefined);
  assert.deepEqual(ours.content, Buffer.from(signal.PlaintextContent.from(theirs).serialize()));
  const read = await peer.call('parse-plaintext', { body: ours.content });
  assert.deepEqual([read.timestamp, read.device, read.ratchetKey], [now, 5, undefined]);
  for (const type of [2, 3, 8]) {
    await assert.rejects(peer.call('decryption-error', { type, body, now, number: 5 }));
    assert.throws(() => signal.DecryptionErrorMessage.forOriginal(body, type, now, 5));
  }
});

test('row 14: HKDF-SHA256, 200 lengths, with and without salt', async () => {
  for (let i = 1; i <= 200; i++) {
    const [key, info] = [randomBytes(i), randomBytes(i % 7 ? i : 0)];
    const salt = i % 3 ? randomBytes(i % 64) : null;
    const theirs = Buffer.from(signal.hkdf(i, key, info, salt));
    const ours = await peer.call('hkdf', { key, other: salt ?? undefined, body: info, iterations: i });
    assert.deepEqual(ours.secret, theirs);
  }
});
