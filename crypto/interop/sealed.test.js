// Call map rows 9, 10, 11 and the cipher of row 14: certificates, sealed sender
// of both versions, and a homeserver's split, in both directions.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { Peer, GoEnd } from './lib/peer.js';
import { SignalEnd, signal } from './lib/signal.js';
import { SignalOffice, GoOffice, SenderKeys, MultiRecipientMessage, account, bytes, flipped, openFully, unseal, sealMany } from './lib/sealed.js';

const { PrivateKey, PublicKey, SenderCertificate, ServerCertificate, UnidentifiedSenderMessageContent } = signal;
const now = 1_800_000_000_000;
const expires = now + 3600_000;
const here = fileURLToPath(new URL('.', import.meta.url));

let sessions, peer;
before(() => {
  execFileSync('go', ['build', '-trimpath', '-o', 'bin/sealedpeer', './sealedpeer'], { cwd: here, stdio: 'inherit' });
  sessions = new Peer();
  peer = new Peer(`${here}bin/sealedpeer`);
});
after(() => {
  sessions?.close();
  peer?.close();
});

// goEnd is a device of the Go side whose private identity key the test knows too.
async function goEnd(number = 1, registration = 1001, name = randomUUID(), key = bytes(PrivateKey.generate())) {
  const end = await new GoEnd(sessions, name, number, registration).open({ key });
  end.key = key;
  return end;
}

const goOpen = (end, body, root, at = now) =>
  peer.call('open', { key: end.key, account: account(end.name), number: end.number, roots: [root], now: at, body });

test('row 9: libsignal issues certificates, Go judges them alike', async () => {
  for (let i = 0; i < 25; i++) {
    const office = new SignalOffice(i * 1_000_003);
    const other = new SignalOffice();
    const end = new SignalEnd(randomUUID(), 1 + (i * 5) % 127);
    const body = await office.issue(end, expires, i % 2 ? '+15550100' : null);
    const theirs = SenderCertificate.deserialize(body);
    const said = await peer.call('validate', { body, roots: [office.root], now });
    assert.equal(said.uuid, end.name);
    assert.deepEqual([said.number, said.expires, said.server], [end.number, expires, i * 1_000_003]);
    assert.deepEqual(said.identity, end.identity);

    for (const [roots, at, code] of [
      [[office], now, null], [[other, office], now, null], [[office], expires, null], [[office], 0, null],
      [[office], expires + 1, 'expired'], [[other], now, 'untrusted'], [[], now, 'untrusted'],
    ]) {
      const verdict = await peer.call('validate', { body, roots: roots.map((o) => o.root), now: at }).then(() => null, (e) => e.code);
      assert.equal(verdict, code);
      if (roots.length) {
        assert.equal(theirs.validateWithTrustRoots(roots.map((o) => PublicKey.deserialize(o.root)), at), code === null);
      }
    }
    // A server certificate of one office, signed under by another.
    const forged = bytes(SenderCertificate.new(end.name, null, end.number, PublicKey.deserialize(end.identity), expires, office.server, other.key));
    assert.equal(SenderCertificate.deserialize(forged).validate(PublicKey.deserialize(office.root), now), false);
    await assert.rejects(peer.call('validate', { body: forged, roots: [office.root], now }), { code: 'signature' });

    for (let bit = i; bit < 8 * body.length; bit += 97) {
      await assert.rejects(peer.call('validate', { body: flipped(body, bit), roots: [office.root], now }), `we accept bit ${bit} flipped`);
    }
  }
});

test('row 9: Go issues certificates, libsignal judges them alike', async () => {
  for (let i = 0; i < 25; i++) {
    const office = await new GoOffice(peer).open(i * 7);
    const other = await new GoOffice(peer).open();
    const end = new SignalEnd(randomUUID(), 1 + (i * 5) % 127);
    const cert = SenderCertificate.deserialize(await office.issue(end, expires));
    assert.equal(cert.senderUuid(), end.name);
    assert.equal(cert.senderDeviceId(), end.number);
    assert.equal(cert.expiration(), expires);
    assert.equal(cert.senderE164(), null);
    assert.deepEqual(bytes(cert.key()), end.identity);
    const server = ServerCertificate.deserialize(office.server);
    assert.equal(server.keyId(), i * 7);
    assert.deepEqual(bytes(server.key()), bytes(PrivateKey.deserialize(office.key).getPublicKey()));
    assert.deepEqual(bytes(cert.serverCertificate()), office.server);
    const root = PublicKey.deserialize(office.root);
    const foreign = PublicKey.deserialize(other.root);
    assert.equal(cert.validate(root, now), true);
    assert.equal(cert.validate(root, expires), true);
    assert.equal(cert.validate(root, expires + 1), false);
    assert.equal(cert.validate(foreign, now), false);
    assert.equal(cert.validateWithTrustRoots([foreign, root], now), true);
  }
});

test('row 10: version 1 with sessions, both ways, 100 messages each', async () => {
  const theirOffice = new SignalOffice();
  const ourOffice = await new GoOffice(peer).open();
  const go = await goEnd();
  const lib = new SignalEnd(randomUUID());
  const theirCert = await theirOffice.issue(lib, expires);
  const ourCert = await ourOffice.issue(go, expires);
  await lib.initiate(go, await go.bundle(1));
  const address = signal.ProtocolAddress.new(go.name, go.number);
  for (let i = 0; i < 100; i++) {
    const text = Buffer.from(`${i} ${'x'.repeat(i * 7)}`);
    const theirs = Buffer.from(await signal.sealedSenderEncryptMessage(text, address, SenderCertificate.deserialize(theirCert), lib.sessions, lib.identities));
    assert.equal(theirs[0], 0x11);
    const c = await goOpen(go, theirs, theirOffice.root);
    assert.deepEqual([c.uuid, c.number, c.type, c.hint], [lib.name, lib.number, i === 0 ? 3 : 2, 0]);
    assert.deepEqual(await go.decrypt(lib, { type: c.type, body: c.body }), text);

    const m = await go.encrypt(lib, text);
    const ours = (await peer.call('seal-v1', { key: go.key, other: lib.identity, certificate: ourCert, ...m })).body;
    const read = await openFully(lib, ours, ourOffice.root, now);
    assert.deepEqual([Buffer.from(read.message()), read.senderUuid(), read.deviceId()], [text, go.name, go.number]);
  }
});

// both seals one message of each side in one version, for refusals.
async function both(version) {
  const [theirOffice, ourOffice] = [new SignalOffice(), await new GoOffice(peer).open()];
  const go = await goEnd(2, 1002);
  const lib = new SignalEnd(randomUUID(), 3);
  await lib.initiate(go, await go.bundle(1));
  const theirMessage = await signal.signalEncrypt(Buffer.from('theirs'), signal.ProtocolAddress.new(go.name, go.number), lib.protocolAddress, lib.sessions, lib.identities, new Date());
  const seal = async (cert, otherCert) => {
    const content = UnidentifiedSenderMessageContent.new(theirMessage, SenderCertificate.deserialize(cert), 1, Buffer.from('group'));
    const theirs = version === 1
      ? await signal.sealedSenderEncrypt(content, signal.ProtocolAddress.new(go.name, go.number), lib.identities)
      : signal.sealedSenderMultiRecipientMessageForSingleRecipient(await sealMany(lib, content, [go]));
    const fields = { key: go.key, certificate: otherCert, type: 3, body: Buffer.from(theirMessage.serialize()), hint: 2, group: Buffer.from('ours') };
    const ours = version === 1
      ? (await peer.call('seal-v1', { ...fields, other: lib.identity })).body
      : Buffer.from(signal.sealedSenderMultiRecipientMessageForSingleRecipient((await peer.call('seal-v2', { ...fields, recipients: [recipient(lib)] })).body));
    return { theirs: Buffer.from(theirs), ours };
  };
  return { theirOffice, ourOffice, go, lib, seal };
}

const recipient = (...ends) => ({
  account: account(ends[0].name),
  identity: ends[0].identity,
  devices: ends.map((e) => ({ id: e.number, registration: e.registration })),
});

for (const version of [1, 2]) {
  test(`rows 10 and 11: version ${version}, contents and refusals on both sides`, async () => {
    const { theirOffice, ourOffice, go, lib, seal } = await both(version);
    const { theirs, ours } = await seal(await theirOffice.issue(lib, expires), await ourOffice.issue(go, expires));

    const c = await goOpen(go, theirs, theirOffice.root);
    assert.deepEqual([c.type, c.hint, Buffer.from(c.group, 'base64').toString(), c.uuid], [3, 1, 'group', lib.name]);
    const u = await unseal(lib, ours);
    assert.deepEqual([u.msgType(), u.contentHint(), Buffer.from(u.groupId()).toString()], [3, 2, 'ours']);
    assert.deepEqual(Buffer.from(u.contents()), c.body);
    assert.deepEqual(bytes(u.senderCertificate().key()), go.identity);

    // The certificate is judged at the time handed in.
    await goOpen(go, theirs, theirOffice.root, expires);
    await assert.rejects(goOpen(go, theirs, theirOffice.root, expires + 1), { code: 'expired' });
    await assert.rejects(goOpen(go, theirs, ourOffice.root), { code: 'untrusted' });
    await assert.rejects(openFully(lib, ours, ourOffice.root, expires + 1), /trust root|certificate|validate/i);
    await assert.rejects(openFully(lib, ours, theirOffice.root, now), /trust root|certificate|validate/i);

    // Own messages: both refuse to be their own sender.
    await assert.rejects(peer.call('open', { key: go.key, account: account(lib.name), number: lib.number, roots: [theirOffice.root], now, body: theirs }), { code: 'own' });
    await assert.rejects(openFully(lib, ours, ourOffice.root, now, go.name, go.number), /self send/);

    // Somebody else's mail.
    const stranger = await goEnd();
    await assert.rejects(goOpen(stranger, theirs, theirOffice.root), { code: 'decrypt' });
    await assert.rejects(unseal(new SignalEnd(randomUUID()), ours), /sealed sender/);

    // Another person's certificate: the static key (v1) and the tag (v2) tell.
    // The Go side does not seal so; its receiver is asked.
    const stolen = await theirOffice.issue(new SignalEnd(lib.name, lib.number), expires);
    const forged = await seal(stolen, await ourOffice.issue(go, expires));
    await assert.rejects(goOpen(go, forged.theirs, theirOffice.root), { code: 'sender' });
    await assert.rejects(seal(await theirOffice.issue(lib, expires), await ourOffice.issue(stranger, expires)), { code: 'content' });

    // Every bit of the head and a sample of the others, on both sides. The low
    // half of the first byte means nothing to libsignal; here it does.
    for (let bit = 8; bit < 8 * ours.length; bit += bit < 8 * 100 ? 1 : 61) {
      await assert.rejects(unseal(lib, flipped(ours, bit)), `libsignal accepts bit ${bit} flipped`);
    }
    for (let bit = 0; bit < 8 * theirs.length; bit += bit < 8 * 100 ? 1 : 61) {
      await assert.rejects(goOpen(go, flipped(theirs, bit), theirOffice.root), `we accept bit ${bit} flipped`);
    }
    for (const n of [0, 1, 40, 90, -1]) {
      await assert.rejects(goOpen(go, theirs.subarray(0, n), theirOffice.root));
      await assert.rejects(unseal(lib, ours.subarray(0, n)));
    }
  });
}

// town is a sender on either side and recipients on three servers, several of
// them with several devices, some held by libsignal and some by Go.
async function town() {
  const sender = new SignalEnd(randomUUID());
  const people = [];
  for (let i = 0; i < 9; i++) {
    const name = randomUUID();
    const devices = [];
    if (i % 2) {
      const key = bytes(PrivateKey.generate());
      for (let d = 0; d <= i % 3; d++) devices.push(await goEnd(d + 1, 3000 + d, name, key));
    } else {
      const pair = signal.IdentityKeyPair.generate();
      for (let d = 0; d <= i % 4; d++) devices.push(new SignalEnd(name, 10 + d, 16383 - d, pair));
    }
    for (const device of devices) await sender.initiate(device, await device.bundle(1));
    people.push({ name, devices, server: ['a.test', 'b.test', 'c.test'][i % 3] });
  }
  return { sender, people, excluded: [randomUUID(), randomUUID()] };
}

// groupMessage makes a sender-key message of the end and lets the libsignal ends
// of others read messages of that chain.
async function groupMessage(sender, people, text) {
  const id = randomUUID();
  const store = new SenderKeys();
  const announcement = await signal.SenderKeyDistributionMessage.create(sender.protocolAddress, id, store);
  const stores = new Map();
  for (const p of people) {
    for (const d of p.devices.filter((d) => d.kind === 'libsignal')) {
      const own = new SenderKeys();
      await signal.processSenderKeyDistributionMessage(sender.protocolAddress, announcement, own);
      stores.set(d, own);
    }
  }
  return { message: await signal.groupEncrypt(sender.protocolAddress, id, store, text), stores };
}

// checkSplit lets the Go homeserver split a message and holds every part and
// every received form against libsignal's own reading.
async function checkSplit(whole, { sender, people, excluded }, { cert, root, stores, text }) {
  const servers = Object.fromEntries(people.map((p) => [account(p.name).toString('base64'), p.server]));
  const split = await peer.call('split', { body: whole, servers });
  const theirs = new MultiRecipientMessage(whole);
  assert.deepEqual([...theirs.excludedRecipientServiceIdStrings()].sort(), [...excluded].sort());
  assert.equal(split.recipients.length, people.length + excluded.length);
  assert.equal(split.recipients.filter((r) => !r.body).length, excluded.length);
  assert.deepEqual(split.parts.map((p) => p.peer).sort(), ['a.test', 'b.test', 'c.test']);
  let opened = 0;
  for (const part of split.parts) {
    const inPart = new MultiRecipientMessage(part.body);
    const expected = people.filter((p) => p.server === part.peer);
    const found = inPart.recipientsByServiceIdString();
    assert.deepEqual(Object.keys(found).sort(), expected.map((p) => p.name).sort());
    assert.deepEqual(inPart.excludedRecipientServiceIdStrings(), []);
    assert.equal(part.recipients.length, expected.length);
    for (const other of [...people.filter((p) => p.server !== part.peer).map((p) => p.name), ...excluded]) {
      assert.ok(!part.body.includes(account(other).subarray(1)), `${part.peer} learns of another server's account`);
    }
    for (const p of expected) {
      assert.deepEqual(found[p.name].deviceIds, p.devices.map((d) => d.number));
      assert.deepEqual(found[p.name].registrationIds, p.devices.map((d) => d.registration));
      const received = part.recipients.find((r) => Buffer.from(r.account, 'base64').equals(account(p.name))).body;
      assert.deepEqual(received, Buffer.from(inPart.messageForRecipient(found[p.name])), 'the part, split by libsignal');
      assert.deepEqual(received, Buffer.from(theirs.messageForRecipient(theirs.recipientsByServiceIdString()[p.name])), 'the whole, split by libsignal');
      for (const d of p.devices) {
        opened++;
        if (d.kind === 'go') {
          const c = await goOpen(d, received, root);
          assert.deepEqual([c.uuid, c.type, c.hint, Buffer.from(c.group, 'base64').toString()], [sender.name, 7, 1, 'a group']);
          continue;
        }
        const u = await unseal(d, received);
        assert.deepEqual([u.msgType(), u.contentHint(), Buffer.from(u.groupId()).toString()], [7, 1, 'a group']);
        assert.deepEqual(bytes(u.senderCertificate()), cert);
        assert.ok(u.senderCertificate().validate(PublicKey.deserialize(root), now));
        assert.deepEqual(Buffer.from(await signal.groupDecrypt(sender.protocolAddress, stores.get(d), Buffer.from(u.contents()))), text);
      }
      await assert.rejects(goOpen(await goEnd(), received, root), { code: 'decrypt' });
    }
  }
  assert.equal(opened, people.reduce((n, p) => n + p.devices.length, 0));
}

test("row 11: libsignal's 3-server message split, each part opened by libsignal", async (t) => {
  const all = await town();
  const { sender, people, excluded } = all;
  const office = new SignalOffice();
  const cert = await office.issue(sender, expires);
  const text = Buffer.from('to all three servers');
  const { message, stores } = await groupMessage(sender, people, text);
  const content = UnidentifiedSenderMessageContent.new(message, SenderCertificate.deserialize(cert), 1, Buffer.from('a group'));
  const whole = await sealMany(sender, content, people.flatMap((p) => p.devices), excluded);
  await checkSplit(whole, all, { cert, root: office.root, stores, text });
  t.diagnostic(`${people.length} people, ${people.flatMap((p) => p.devices).length} devices, ${whole.length} bytes`);
});

test("row 11: Go's 3-server message split, each part opened by libsignal", async () => {
  const all = await town();
  const { sender, people, excluded } = all;
  const office = await new GoOffice(peer).open();
  const cert = await office.issue(sender, expires);
  const text = Buffer.from('to all three servers');
  const { message, stores } = await groupMessage(sender, people, text);
  const whole = (await peer.call('seal-v2', {
    key: bytes(sender.pair.privateKey), certificate: cert, type: 7, body: Buffer.from(message.serialize()), hint: 1, group: Buffer.from('a group'),
    recipients: people.map((p) => recipient(...p.devices)), excluded: excluded.map(account),
  })).body;
  await checkSplit(whole, all, { cert, root: office.root, stores, text });
});

test('row 11: version 2 with sessions, both ways', async () => {
  const [theirOffice, ourOffice] = [new SignalOffice(), await new GoOffice(peer).open()];
  const go = await goEnd();
  const lib = new SignalEnd(randomUUID());
  const [theirCert, ourCert] = [await theirOffice.issue(lib, expires), await ourOffice.issue(go, expires)];
  await go.initiate(lib, await lib.bundle(1));
  for (let i = 0; i < 50; i++) {
    const text = Buffer.from(`message ${i}`);
    const m = await go.encrypt(lib, text);
    const ours = (await peer.call('seal-v2', { key: go.key, certificate: ourCert, ...m, recipients: [recipient(lib)] })).body;
    const [{ body: received }] = (await peer.call('split', { body: ours, servers: {} })).recipients;
    assert.deepEqual(received, Buffer.from(signal.sealedSenderMultiRecipientMessageForSingleRecipient(ours)));
    const read = await openFully(lib, received, ourOffice.root, now);
    assert.deepEqual([Buffer.from(read.message()), read.senderUuid()], [text, go.name]);

    const theirs = await signal.signalEncrypt(text, signal.ProtocolAddress.new(go.name, go.number), lib.protocolAddress, lib.sessions, lib.identities, new Date());
    const content = UnidentifiedSenderMessageContent.new(theirs, SenderCertificate.deserialize(theirCert), 0, null);
    const sealed = await sealMany(lib, content, [go]);
    const [{ body: forGo }] = (await peer.call('split', { body: sealed, servers: {} })).recipients;
    const c = await goOpen(go, forGo, theirOffice.root);
    assert.deepEqual(await go.decrypt(lib, { type: c.type, body: c.body }), text);
  }
});

test('row 11: plaintext content and long contents', async () => {
  const office = await new GoOffice(peer).open();
  const go = await goEnd();
  const lib = new SignalEnd(randomUUID());
  await go.initiate(lib, await lib.bundle(1));
  const first = await go.encrypt(lib, Buffer.from('x'));
  const error = signal.PlaintextContent.from(signal.DecryptionErrorMessage.forOriginal(first.body, first.type, now, 1));
  const certificate = await office.issue(go, expires);
  for (const [type, body] of [[8, Buffer.from(error.serialize())], [2, randomBytes(93 << 10)]]) {
    const v1 = (await peer.call('seal-v1', { key: go.key, other: lib.identity, certificate, type, body })).body;
    const v2 = (await peer.call('seal-v2', { key: go.key, certificate, type, body, recipients: [recipient(lib)] })).body;
    for (const sealed of [v1, signal.sealedSenderMultiRecipientMessageForSingleRecipient(v2)]) {
      const u = await unseal(lib, sealed);
      assert.deepEqual([u.msgType(), u.contentHint(), u.groupId()], [type, 0, null]);
      assert.deepEqual(Buffer.from(u.contents()), body);
    }
  }
  await assert.rejects(peer.call('seal-v1', { key: go.key, other: lib.identity, certificate, type: 2, body: randomBytes((93 << 10) + 1) }), { code: 'content' });
});

test('row 11: where the homeserver is stricter than the package', async () => {
  const sender = new SignalEnd(randomUUID());
  const [one, two] = [new SignalEnd(randomUUID(), 1), new SignalEnd(randomUUID(), 2)];
  for (const end of [one, two]) await sender.initiate(end, await end.bundle(1));
  const office = new SignalOffice();
  const message = await signal.signalEncrypt(Buffer.from('x'), one.protocolAddress, sender.protocolAddress, sender.sessions, sender.identities, new Date());
  const content = UnidentifiedSenderMessageContent.new(message, SenderCertificate.deserialize(await office.issue(sender, expires)), 0, null);
  const split = (body) => peer.call('split', { body, servers: {} });

  // The package writes a recipient twice when the sender's list is not grouped.
  await assert.rejects(split(await sealMany(sender, content, [one, two, one])), { code: 'duplicate' });
  await assert.rejects(split(await sealMany(sender, content, [one], [two.name, two.name])), { code: 'duplicate' });
  await assert.rejects(split(await sealMany(sender, content, [])), { code: 'fanout-malformed' });
  await assert.rejects(split(await sealMany(sender, content, [], [one.name])), { code: 'fanout-malformed' });

  // A number in more bytes than needed shifts the package's reading by one.
  const good = await sealMany(sender, content, [one]);
  assert.equal((await split(good)).recipients.length, 1);
  const longer = Buffer.concat([Buffer.from([0x23, 0x81, 0x00]), good.subarray(2)]);
  await assert.rejects(split(longer), { code: 'fanout-malformed' });
  // The bit above the registration id: ignored there, refused here.
  await assert.rejects(split(flipped(good, 8 * 20 + 6)), { code: 'fanout-malformed' });
});

test('row 11: a number of recipients in two bytes', async () => {
  const go = await goEnd();
  const office = await new GoOffice(peer).open();
  const ends = Array.from({ length: 130 }, (_, i) => new SignalEnd(randomUUID(), 1 + (i % 127), 1 + i));
  const whole = (await peer.call('seal-v2', {
    key: go.key, certificate: await office.issue(go, expires), type: 2, body: randomBytes(64), recipients: ends.map((e) => recipient(e)),
  })).body;
  const read = new MultiRecipientMessage(whole);
  const found = read.recipientsByServiceIdString();
  assert.equal(Object.keys(found).length, ends.length);
  for (const end of ends) {
    assert.deepEqual(found[end.name].registrationIds, [end.registration]);
    assert.equal((await unseal(end, Buffer.from(read.messageForRecipient(found[end.name])))).msgType(), 2);
  }
});

test('row 14: AES-256-GCM-SIV, 200 lengths, with and without additional data', async () => {
  for (let i = 0; i < 200; i++) {
    const key = randomBytes(32);
    const nonce = i % 2 ? randomBytes(12) : Buffer.alloc(12);
    const [body, other] = [randomBytes(i < 190 ? i : 9000 * (i - 189)), randomBytes(i % 3 ? i : 0)];
    const theirs = Buffer.from(signal.Aes256GcmSiv.new(key).encrypt(body, nonce, other));
    assert.deepEqual((await peer.call('gcmsiv', { key, nonce, body, other })).body, theirs);
  }
});
