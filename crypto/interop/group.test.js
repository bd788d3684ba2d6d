// Call map row 8: sender keys, in both directions and between ends of the same
// kind as a check of the harness itself.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { Peer } from './lib/peer.js';
import { signal } from './lib/signal.js';
import { flipped } from './lib/sealed.js';
import { GoTalker, GoListener, SignalTalker, SignalListener } from './lib/group.js';
import { Random } from './lib/random.js';

const { ErrorCode, SenderKeyMessage, SenderKeyDistributionMessage, PublicKey } = signal;

let peer;
before(() => {
  peer = new Peer();
});
after(() => peer.close());

// What each refusal is called on either side.
const texts = {
  jump: /too far into the future/i,
  'no-key': /sender key|state|session/i,
  signature: /signature|invalid/i,
};

async function refused(promise, want) {
  try {
    await promise;
  } catch (error) {
    assert.ok(!(error instanceof TypeError || error instanceof ReferenceError), `a mistake in the harness: ${error.stack}`);
    if (!want) return;
    if (want === 'duplicate' && error.code === ErrorCode.DuplicatedMessage) return;
    if (typeof error.code === 'string') assert.equal(error.code, want, error.message);
    else assert.match(error.message, texts[want] ?? /^$/);
    return;
  }
  assert.fail('accepted');
}

// everyWay runs a case for each kind of talker with each kind of listener.
function everyWay(name, run, { self = false } = {}) {
  for (const from of ['go', 'libsignal']) {
    for (const to of ['go', 'libsignal']) {
      if (from === to && !self) continue;
      test(`row 8, ${name}: ${from} to ${to}`, async (t) => {
        const id = randomUUID();
        const talker = await (from === 'go' ? new GoTalker(peer, id) : new SignalTalker(id)).rotate();
        const listener = async () => {
          const l = await (to === 'go' ? new GoListener(peer, id) : new SignalListener(talker.address)).open();
          await l.process(await talker.distribution());
          return l;
        };
        await run({ t, id, talker, listener });
      });
    }
  }
}

everyWay('order: 3, 1, 2, and each once', async ({ talker, listener }) => {
  const l = await listener();
  const said = [await talker.say('1'), await talker.say('2'), await talker.say('3')];
  assert.equal(await l.read(said[2]), '3');
  assert.equal(await l.read(said[0]), '1');
  assert.equal(await l.read(said[1]), '2');
  for (const m of said) await refused(l.read(m), 'duplicate');
}, { self: true });

everyWay('300 messages, 30 % lost, the rest in any order, two listeners', async ({ talker, listener }) => {
  const random = new Random(7);
  const listeners = [await listener(), await listener()];
  for (const l of listeners) l.flying = [];
  for (let i = 0; i < 300; i++) {
    const text = `${i} ${'x'.repeat(i)}`;
    const m = await talker.say(text);
    for (const l of listeners) {
      if (random.below(10) >= 3) l.flying.push({ text, m });
      while (l.flying.length > 20 || (i === 299 && l.flying.length)) {
        const [f] = l.flying.splice(random.below(l.flying.length), 1);
        assert.equal(await l.read(f.m), f.text);
        if (i % 10 === 0) await refused(l.read(f.m), 'duplicate');
      }
    }
  }
});

everyWay('who joins late reads from then on', async ({ talker, listener }) => {
  const early = await listener();
  const beforeJoin = await talker.say('before', 3);
  const late = await listener();
  const afterJoin = await talker.say('after');
  await refused(late.read(beforeJoin), 'duplicate');
  assert.equal(await late.read(afterJoin), 'after');
  assert.equal(await early.read(afterJoin), 'after');
  assert.equal(await early.read(beforeJoin), 'before');
});

everyWay('rotation when somebody leaves', async ({ talker, listener }) => {
  const [stays, leaves] = [await listener(), await listener()];
  const last = await talker.say('to all');
  await talker.rotate();
  await stays.process(await talker.distribution());
  const m = await talker.say('without one');
  await refused(leaves.read(m), 'no-key');
  assert.equal(await stays.read(m), 'without one');
  assert.equal(await stays.read(last), 'to all');
});

everyWay('a jump over 25,000 passes, over 25,001 fails', async ({ talker, listener }) => {
  const [near, far] = [await listener(), await listener()];
  const first = await talker.say('first');
  const at25000 = await talker.say('25,000 ahead', 25_000);
  const at25001 = await talker.say('25,001 ahead');
  assert.equal(await near.read(at25000), '25,000 ahead');
  await refused(near.read(first), 'duplicate');
  await refused(far.read(at25001), 'jump');
  assert.equal(await far.read(first), 'first');
  assert.equal(await far.read(at25001), '25,001 ahead');
});

everyWay('2,000 keys are kept', async ({ talker, listener }) => {
  const [all, allButOne] = [await listener(), await listener()];
  const [first, second] = [await talker.say('first'), await talker.say('second')];
  const passing2000 = await talker.say('passes over 2,000', 1999);
  const passing2001 = await talker.say('passes over 2,001');
  assert.equal(await all.read(passing2000), 'passes over 2,000');
  assert.equal(await all.read(first), 'first');
  assert.equal(await allButOne.read(passing2001), 'passes over 2,001');
  await refused(allButOne.read(first), 'duplicate');
  assert.equal(await allButOne.read(second), 'second');
});

everyWay('five chains, the oldest is dropped', async ({ talker, listener }) => {
  const l = await listener();
  const said = [await talker.say('0')];
  for (let i = 1; i <= 5; i++) {
    await talker.rotate();
    await l.process(await talker.distribution());
    said.push(await talker.say(`${i}`));
  }
  await refused(l.read(said[0]), 'no-key');
  for (let i = 1; i <= 5; i++) assert.equal(await l.read(said[i]), `${i}`);
}, { self: true });

everyWay('a known chain stays as it is, and becomes the newest', async ({ talker, listener }) => {
  const l = await listener();
  const old = await talker.distribution();
  const said = [await talker.say('0'), await talker.say('1'), await talker.say('2')];
  assert.equal(await l.read(said[1]), '1');
  await l.process(old);
  await refused(l.read(said[1]), 'duplicate');
  assert.equal(await l.read(said[0]), '0');
  for (let i = 0; i < 5; i++) {
    if (i === 2) await l.process(old);
    await talker.rotate();
    await l.process(await talker.distribution());
  }
  assert.equal(await l.read(said[2]), '2');
}, { self: true });

everyWay('a known chain further ahead stays as it is', async ({ talker, listener }) => {
  const l = await listener();
  const first = await talker.say('first');
  await talker.say('lost', 5);
  await l.process(await talker.distribution());
  assert.equal(await l.read(first), 'first');
}, { self: true });

// varint and field write what the harness changes in a message.
function varint(v) {
  const out = [];
  for (; v >= 0x80; v = Math.floor(v / 128)) out.push((v & 0x7f) | 0x80);
  return Buffer.from([...out, v]);
}
const data = (number, b) => Buffer.concat([Buffer.from([(number << 3) | 2]), varint(b.length), b]);
const number = (n, v) => Buffer.concat([Buffer.from([n << 3]), varint(v)]);

everyWay('the same chain with another signing key replaces', async ({ id, talker, listener }) => {
  const l = await listener();
  const m = await talker.say('mine');
  const d = SenderKeyDistributionMessage.deserialize(await talker.distribution());
  const other = Buffer.concat([
    Buffer.from([0x33]), data(1, Buffer.from(id.replaceAll('-', ''), 'hex')), number(2, d.chainId()), number(3, 0),
    data(4, randomBytes(32)), data(5, Buffer.from(signal.PrivateKey.generate().getPublicKey().serialize())),
  ]);
  await l.process(other);
  await refused(l.read(m), 'signature');
}, { self: true });

everyWay('altered and shortened messages are refused, the intact one reads', async ({ talker, listener }) => {
  const l = await listener();
  const m = await talker.say('intact');
  for (let bit = 0; bit < 8 * m.length; bit += bit < 8 * 40 || bit >= 8 * (m.length - 2) ? 1 : 7) {
    await refused(l.read(flipped(m, bit)));
  }
  for (const n of [0, 1, 40, m.length - 64, m.length - 1]) await refused(l.read(m.subarray(0, n)));
  assert.equal(await l.read(m), 'intact');
});

test('row 8, the wire: what libsignal reads in our messages', async () => {
  const id = randomUUID();
  const talker = await new GoTalker(peer, id).rotate();
  for (let i = 0; i < 3; i++) {
    const d = SenderKeyDistributionMessage.deserialize(await talker.distribution());
    assert.deepEqual([d.distributionId(), d.iteration(), d.chainKey().length], [id, i, 32]);
    const body = await talker.say('x'.repeat(i * 8));
    const m = SenderKeyMessage.deserialize(body);
    assert.deepEqual([m.distributionId(), m.chainId(), m.iteration(), m.ciphertext().length], [id, d.chainId(), i, 16 * (1 + (i >> 1))]);
    // The signing key is the last field.
    const signing = PublicKey.deserialize((await talker.distribution()).subarray(-33));
    assert.ok(m.verifySignature(signing));
    assert.deepEqual(Buffer.from(SenderKeyMessage.deserialize(body).serialize()), body);
  }
});
