// A small deterministic generator (xorshift32), so that a schedule can be
// repeated from its seed.
export class Random {
  constructor(seed) {
    this.state = (seed * 2654435761) >>> 0 || 1;
  }
  next() {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x >>> 0;
    return this.state / 2 ** 32;
  }
  below(n) {
    return Math.floor(this.next() * n);
  }
}
