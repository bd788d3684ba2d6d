// Records sealed messages of the official package for plain `go test`. Usage:
// node record-sealed.js (writes ../testdata/vectors/sealed.json).
import { writeFileSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { SignalEnd, signal } from './lib/signal.js';
import { SignalOffice, MultiRecipientMessage, account, bytes, sealMany } from './lib/sealed.js';

const expires = 1_800_000_000_000;
const base64 = (b) => Buffer.from(b).toString('base64');
const sender = new SignalEnd(randomUUID(), 3);
const ends = Array.from({ length: 3 }, (_, i) => new SignalEnd(randomUUID(), i + 1, 2000 + i));
for (const end of ends) await sender.initiate(end, await end.bundle(1));
const office = new SignalOffice();
const certificate = await office.issue(sender, expires);
const message = await signal.signalEncrypt(Buffer.from('x'), ends[0].protocolAddress, sender.protocolAddress, sender.sessions, sender.identities, new Date());
const content = signal.UnidentifiedSenderMessageContent.new(message, signal.SenderCertificate.deserialize(certificate), 1, Buffer.from('group'));
const whole = await sealMany(sender, content, ends, [randomUUID()]);
const read = new MultiRecipientMessage(whole);
const recipients = [];
for (const end of ends) {
  recipients.push({
    account: base64(account(end.name)), device: end.number, registration: end.registration, private: base64(bytes(end.pair.privateKey)),
    v1: base64(await signal.sealedSenderEncrypt(content, end.protocolAddress, sender.identities)),
    v2: base64(read.messageForRecipient(read.recipientsByServiceIdString()[end.name])),
  });
}
writeFileSync(new URL('../testdata/vectors/sealed.json', import.meta.url), JSON.stringify({
  description: 'sealed sender, made by libsignal', package: '@signalapp/libsignal-client 0.103.0',
  root: base64(office.root), expires, sender: base64(account(sender.name)), device: sender.number, certificate: base64(certificate),
  body: base64(message.serialize()), whole: base64(whole), recipients,
}, null, 1) + '\n');
