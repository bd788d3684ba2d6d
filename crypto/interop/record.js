// Records transcripts of the official package for plain `go test`: what it sent,
// and what the Go side, whose randomness comes from a seed, answered and
// libsignal read. Usage: ./record (writes ../testdata/vectors).
import { mkdirSync, writeFileSync } from 'node:fs';
import { createHash, randomBytes } from 'node:crypto';
import { Peer, GoEnd } from './lib/peer.js';
import { SignalEnd, signal } from './lib/signal.js';
import { Random } from './lib/random.js';

const folder = new URL('../testdata/vectors/', import.meta.url);
const messages = 1100;
const window = 4;
const base64 = (b) => Buffer.from(b).toString('base64');

function write(name, value) {
  mkdirSync(folder, { recursive: true });
  const { steps, ...head } = value;
  let text = JSON.stringify(head, null, 1);
  if (steps) {
    // One step a line keeps differences readable.
    text = text.replace(/\n}$/, ',\n "steps": [\n' + steps.map((s) => '  ' + JSON.stringify(s)).join(',\n') + '\n ]\n}');
  }
  writeFileSync(new URL(name, folder), text + '\n');
}

function plainBundle(b) {
  return Object.fromEntries(Object.entries(b).map(([k, v]) => [k, Buffer.isBuffer(v) ? base64(v) : v]));
}

async function transcript(peer, goStarts, oneTime, number) {
  const uuid = (s) => createHash('sha256').update(s).digest('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/, '$1-$2-$3-$4-$5');
  const seed = createHash('sha256').update(`transcript ${number}`).digest();
  const go = await new GoEnd(peer, uuid(`go ${number}`), 1, 1001).open({ seed });
  const lib = new SignalEnd(uuid(`libsignal ${number}`), 2, 2002);
  const random = new Random(number);
  const steps = [];
  const flying = { go: [], lib: [] };
  let heard = false;

  async function goSends(text) {
    const m = await go.encrypt(lib, Buffer.from(text));
    steps.push({ op: 'encrypt', plaintext: base64(text), type: m.type, body: base64(m.body) });
    return { ...m, text };
  }
  async function goReads(m) {
    let plaintext;
    try {
      plaintext = await go.decrypt(lib, m);
    } catch (error) {
      steps.push({ op: 'decrypt', type: m.type, body: base64(m.body), error: error.code });
      return;
    }
    if (plaintext.toString() !== m.text) throw new Error('a wrong plaintext');
    steps.push({ op: 'decrypt', type: m.type, body: base64(m.body), plaintext: base64(m.text) });
  }

  if (goStarts) {
    const bundle = await lib.bundle(11, oneTime);
    await go.initiate(lib, bundle);
    steps.push({ op: 'initiate', now: 1_800_000_000_000, bundle: plainBundle(bundle) });
  } else {
    const bundle = await go.bundle(11, oneTime);
    steps.push({ op: 'bundle', id: 11, oneTime, bundle: plainBundle(bundle) });
    await lib.initiate(go, bundle);
  }
  for (let i = 0; i < messages; i++) {
    const text = `transcript ${number}, message ${i}`;
    const goTurn = heard ? random.below(2) === 0 : goStarts;
    const keep = random.below(10) >= 3;
    if (goTurn) {
      const m = await goSends(text);
      if (keep) flying.lib.push(m);
    } else {
      const m = { ...(await lib.encrypt(go, Buffer.from(text))), text };
      if (keep) flying.go.push(m);
    }
    for (const side of ['lib', 'go']) {
      if (flying[side].length < (heard ? window : 1)) continue;
      const [m] = flying[side].splice(random.below(flying[side].length), 1);
      if (side === 'go') {
        await goReads(m);
        if (i % 50 === 0) await goReads(m); // a repeat, refused
      } else if (!(await lib.decrypt(go, m).then(() => true, () => false))) {
        continue;
      }
      heard = true;
    }
  }
  const identity = base64(lib.identity);
  return {
    description: 'libsignal with the Go side, 30 % lost, the rest reordered',
    package: '@signalapp/libsignal-client 0.103.0',
    seed: base64(seed),
    go: { name: go.name, device: 1, registration: 1001, identity: base64(go.identity) },
    libsignal: { name: lib.name, device: 2, registration: 2002, identity },
    epochs: go.epoch - 1,
    steps,
  };
}

function primitives() {
  const { PrivateKey, Fingerprint, KEMKeyPair } = signal;
  const bytes = (x) => base64(x.serialize());
  const signatures = [0, 1, 33, 63, 64, 65, 199, 1569].map((n) => {
    const key = PrivateKey.generate();
    const message = randomBytes(n);
    return { private: bytes(key), public: bytes(key.getPublicKey()), message: base64(message), signature: base64(key.sign(message)) };
  });
  const agreements = Array.from({ length: 8 }, () => {
    const [a, b] = [PrivateKey.generate(), PrivateKey.generate()];
    return { private: bytes(a), public: bytes(b.getPublicKey()), secret: base64(a.agree(b.getPublicKey())) };
  });
  const kem = Array.from({ length: 2 }, () => {
    const pair = KEMKeyPair.generate();
    return { public: bytes(pair.getPublicKey()), secret: bytes(pair.getSecretKey()) };
  });
  const safetyNumbers = [1024, 5200].map((iterations) => {
    const [a, b] = [PrivateKey.generate().getPublicKey(), PrivateKey.generate().getPublicKey()];
    const [localId, remoteId] = [randomBytes(16), randomBytes(16)];
    const f = Fingerprint.new(iterations, 2, localId, a, remoteId, b);
    return {
      iterations, localId: base64(localId), local: bytes(a), remoteId: base64(remoteId), remote: bytes(b),
      digits: f.displayableFingerprint().toString(), scannable: base64(f.scannableFingerprint().toBuffer()),
    };
  });
  return { description: 'keys, signatures, agreements and safety numbers', package: '@signalapp/libsignal-client 0.103.0', signatures, agreements, kem, safetyNumbers };
}

const peer = new Peer();
let number = 1;
for (const goStarts of [true, false]) {
  for (const oneTime of [true, false]) {
    const name = `session-${goStarts ? 'go' : 'libsignal'}-starts-${oneTime ? 'with' : 'without'}-onetime.json`;
    write(name, await transcript(peer, goStarts, oneTime, number++));
  }
}
write('primitives.json', primitives());
peer.close();
