// Audio between where it is made and where it is sent. Positions are samples since the beginning.

const CLOCK_PACKETS = 50;

export class Tape {
  /** `holdS`: how many seconds are kept at most for a connection that is away; older audio is then lost. */
  constructor(rate, holdS) {
    this.rate = rate;
    this.most = holdS * rate;
    this.parts = [];
    this.start = 0;
    this.end = 0;
    this.offsets = [];
  }

  /** Adds samples that end now. */
  push(samples) {
    this.parts.push({ from: this.end, samples });
    this.end += samples.length;
    this.offsets.push(performance.now() - this.ms(this.end));
    if (this.offsets.length > CLOCK_PACKETS) this.offsets.shift();
    // Never the part that has just come, however long it is.
    while (this.parts.length > 1 && this.end - this.parts[1].from >= this.most) this.drop();
  }

  /** Gives up what lies before a position. */
  forget(before) {
    while (this.parts.length && this.parts[0].from + this.parts[0].samples.length <= before) this.drop();
  }

  drop() {
    const { from, samples } = this.parts.shift();
    this.start = from + samples.length;
  }

  /** Returns at most so many samples from a position on, which is not before `start`. */
  read(from, most) {
    let low = 0;
    for (let high = this.parts.length; low + 1 < high; ) {
      const middle = (low + high) >> 1;
      if (this.parts[middle].from <= from) low = middle;
      else high = middle;
    }
    const pieces = [];
    let size = 0;
    for (let at = low; at < this.parts.length && size < most; at++) {
      const part = this.parts[at];
      const skipped = Math.max(0, from - part.from);
      const piece = part.samples.subarray(skipped, skipped + most - size);
      pieces.push(piece);
      size += piece.length;
    }
    if (pieces.length === 1) return pieces[0];
    const joined = new Int16Array(size);
    let at = 0;
    for (const piece of pieces) {
      joined.set(piece, at);
      at += piece.length;
    }
    return joined;
  }

  /** Milliseconds of so many samples. */
  ms(samples) {
    return (1000 * samples) / this.rate;
  }

  samples(ms) {
    return Math.round((ms * this.rate) / 1000);
  }

  /** When the audio at a position was heard, on the clock of `performance.now()`. Packets are late now and then, never early. */
  heardAt(position) {
    return Math.min(...this.offsets) + this.ms(position);
  }
}
