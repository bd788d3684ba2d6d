// Records conversations of a group for plain `go test`: what libsignal said, and
// what the Go side, whose randomness comes from a seed, said and libsignal read.
// Usage: ./record (writes ../testdata/vectors/group.json).
import { writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { Peer } from './lib/peer.js';
import { GoTalker, SignalTalker, SignalListener } from './lib/group.js';
import { Random } from './lib/random.js';

const base64 = (b) => Buffer.from(b).toString('base64');
const id = 'd1570000-0000-4000-8000-00000000000a';
const seed = createHash('sha256').update('group transcript').digest();
const random = new Random(41);
const peer = new Peer();

// Each seeded call begins its randomness anew, so every step is repeatable by
// itself; a new key comes from a seed of its own.
const keySeed = (n) => createHash('sha256').update(`group key ${n}`).digest();
const steps = [];
const lib = await new SignalTalker(id).rotate();
const go = await new GoTalker(peer, id, seed).rotate(keySeed(0));
const listener = await new SignalListener(go.address).open();
const flying = { go: [], lib: [] };
for (let i = 0; i < 240; i++) {
  if (i % 80 === 0) {
    if (i > 0) await Promise.all([lib.rotate(), go.rotate(keySeed(i))]);
    steps.push({ op: 'process', body: base64(await lib.distribution()) });
    const own = await go.distribution();
    await listener.process(own);
    steps.push({ op: 'new', seed: base64(keySeed(i)), body: base64(own) });
  }
  const text = `group message ${i}`;
  const said = await go.say(text);
  steps.push({ op: 'encrypt', plaintext: base64(text), body: base64(said) });
  if (random.below(10) >= 3) flying.lib.push({ text, body: said });
  const heard = await lib.say(text);
  if (random.below(10) >= 3) flying.go.push({ text, body: heard });
  if (flying.lib.length > 4) {
    const [m] = flying.lib.splice(random.below(flying.lib.length), 1);
    if ((await listener.read(m.body)) !== m.text) throw new Error('a wrong plaintext');
  }
  if (flying.go.length > 4) {
    const [m] = flying.go.splice(random.below(flying.go.length), 1);
    steps.push({ op: 'decrypt', body: base64(m.body), plaintext: base64(m.text) });
    if (i % 30 === 0) steps.push({ op: 'decrypt', body: base64(m.body), error: 'duplicate' });
  }
}
peer.close();

const head = JSON.stringify({ description: 'sender keys of libsignal and of the Go side in one distribution', package: '@signalapp/libsignal-client 0.103.0', distribution: base64(Buffer.from(id.replaceAll('-', ''), 'hex')), seed: base64(seed) }, null, 1);
const lines = steps.map((s) => '  ' + JSON.stringify(s)).join(',\n');
writeFileSync(new URL('../testdata/vectors/group.json', import.meta.url), head.replace(/\n}$/, `,\n "steps": [\n${lines}\n ]\n}\n`));
