// How long after a word was spoken it was shown.

const KEPT = 40;

export class Latency {
  constructor() {
    this.delays = [];
    this.seen = [];
    this.shown = [];
  }

  /** Takes a result of live audio; `heardAt(ms)` says when the audio at that time of the stream was heard. */
  take(message, heardAt, now = performance.now()) {
    const words = message.text.split(/\s+/).filter(Boolean);
    words.forEach((word, index) => {
      if (this.shown[index] !== word) this.seen[index] = now;
    });
    this.shown = words;
    if (!message.final) return;
    for (const [index, word] of (message.words ?? []).entries()) {
      // A word that an endpoint or a finalize changed at the last moment counts as it is.
      if (words[index] === word.word) this.delays.push(Math.max(0, this.seen[index] - heardAt(word.end_ms)));
    }
    this.delays.splice(0, Math.max(0, this.delays.length - KEPT));
    this.restart();
  }

  /** Forgets the utterance that was going on, as after a lost connection. */
  restart() {
    this.shown = [];
    this.seen = [];
  }

  /** The median in ms; null before there is one. */
  get median() {
    const sorted = this.delays.toSorted((a, b) => a - b);
    return sorted.length ? sorted[sorted.length >> 1] : null;
  }
}
