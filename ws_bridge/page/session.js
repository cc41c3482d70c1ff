// From Start to the last final: a source of audio, a tape, and as many connections as it takes.
//
//     idle -> starting -> connecting -> listening <-> reconnecting        Stop, or the end of a recording:
//                                                                         finishing -> idle
//
// A connection that is lost is made again, and its stream begins after the last final: what was said in between is on the
// tape, so that no word is lost and none comes twice.

import { Link } from "./link.js";
import { explain } from "./problems.js";
import { Tape } from "./tape.js";

const NORMAL = 1000;
const LIVE_HOLD_S = 60;
const GIVE_UP_MS = 120_000;
const BACKOFF_MS = [300, 600, 1200, 2500, 5000];
const MAX_ATTEMPTS = 30;
/** Silence after a final by an endpoint that no word of the next utterance reaches into. */
const AFTER_WORD_MS = 400;
/** How far back a word may reach that has not been heard yet. */
const QUIET_MS = 1000;

export class Session {
  /**
   * `init`: fields of the first message but for `sr`. `base`: ms that the transcript has already.
   * `on.state(name, detail)`, `on.interim(text)`, `on.final(segment)`, `on.gap(ms, atMs)`, `on.problem(problem)`,
   * `on.packet(samples)`, `on.heard(message, heardAt, ms)` (`ms` of the source are done), `on.end(ms)`.
   */
  constructor({ url, source, init, base, diagnose, on }) {
    Object.assign(this, { url, source, init, base, diagnose, on });
    this.resumeAt = 0;
    this.attempts = 0;
    this.failingSince = null;
    // The newest result that is no final, and where its stream began.
    this.newest = null;
    this.isOver = false;
  }

  async start() {
    this.to("starting");
    // A source says its true rate only once it is open, and may hand over packets before that.
    const early = [];
    let ended = null;
    this.take = (samples) => early.push(samples);
    this.sourceEnded = (sentence = "") => (ended = sentence);
    try {
      await this.source.open(
        (samples) => this.take(samples),
        (sentence) => this.sourceEnded(sentence),
      );
    } catch (error) {
      this.over();
      throw error;
    }
    this.isOpen = true;
    if (this.isOver) return void this.source.close();
    this.tape = new Tape(this.source.rate, this.source.isLive ? LIVE_HOLD_S : Infinity);
    this.take = (samples) => this.record(samples);
    this.sourceEnded = (sentence = "") => {
      if (sentence) this.on.problem({ sentence });
      if (!this.source.isLive) this.recorded();
      else if (this.state !== "finishing") this.stop();
    };
    early.forEach(this.take);
    this.connect();
    if (ended !== null) this.sourceEnded(ended);
  }

  record(samples) {
    this.tape.push(samples);
    this.on.packet(samples);
    this.link?.pump();
  }

  /** Takes no more audio, and waits for the last final; where there is no more to come, gives up waiting. */
  async stop() {
    if (this.state === "starting") return this.over();
    if (this.state === "finishing" || this.isRecorded) return this.giveUp();
    this.to("finishing");
    await this.source.close();
    if (!this.isOver) this.recorded();
  }

  recorded() {
    this.isRecorded = true;
    this.link?.finish();
  }

  to(state, detail) {
    // What is left to be heard is waited for in this state, whatever the connection does.
    if (this.state === "finishing" && !this.isOver) state = "finishing";
    this.state = state;
    this.on.state(state, detail);
  }

  connect() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.resumeAt < this.tape.start) {
      this.on.gap(this.tape.ms(this.tape.start - this.resumeAt), this.base + this.tape.ms(this.resumeAt));
      this.resumeAt = this.tape.start;
    }
    this.from = this.resumeAt;
    this.to(this.failingSince === null ? "connecting" : "reconnecting");
    const link = new Link(this.url, { ...this.init, sr: this.tape.rate }, this.tape, this.from, {
      // Being let in shows only with the first result, which is worth waiting for where that has failed before.
      open: () => this.failingSince === null && this.to("listening"),
      result: (message) => this.result(message),
      end: (how) => this.ended(how),
      behind: () => this.behind(),
    });
    this.link = link;
    if (this.isRecorded) link.finish();
  }

  result(message) {
    this.failingSince = null;
    if (this.state !== "listening") this.to("listening");
    const before = this.resumeAt;
    const at = (ms) => this.from + this.tape.samples(ms);
    this.on.heard(message, (ms) => this.tape.heardAt(at(ms)), this.tape.ms(at(message.audio_ms)));
    // What the server could still say before it ended the stream is heard again by the next connection, and whole.
    if (!message.final || message.reason === "ended_by_server") {
      this.newest = { message, from: this.from };
      if (!message.text) this.resumeAt = Math.max(this.resumeAt, at(message.audio_ms - QUIET_MS));
      this.on.interim(message.text);
    } else {
      this.newest = null;
      this.final(message, this.from);
      this.resumeAt = at(this.endOf(message));
    }
    if (this.resumeAt > before) this.attempts = 0;
    this.tape.forget(this.resumeAt);
  }

  /** Up to where, in ms of its stream, no audio is needed again after a final. */
  endOf({ reason, words, audio_ms }) {
    const last = words?.at(-1);
    if (reason !== "endpoint" || !last) return audio_ms;
    // An utterance that was too long ends without a pause, right before the next word.
    const paused = audio_ms - last.end_ms >= this.init.endpoint_ms;
    return Math.min(audio_ms, last.end_ms + (paused ? AFTER_WORD_MS : 0));
  }

  final(message, from) {
    this.on.interim("");
    if (!message.text) return;
    const shift = this.base + this.tape.ms(from);
    const whole = (ms) => Math.round(shift + ms);
    const words = (message.words ?? []).map((word) => ({
      ...word,
      start_ms: whole(word.start_ms),
      end_ms: whole(word.end_ms),
    }));
    const end = words.at(-1)?.end_ms ?? whole(message.audio_ms);
    this.on.final({
      text: message.text,
      start_ms: words[0]?.start_ms ?? end,
      end_ms: end,
      confidence: message.confidence ?? null,
      language: message.language ?? "",
      words,
    });
  }

  async ended(how) {
    this.link = null;
    if (how.code === NORMAL && this.isRecorded) return this.over();
    const problem = how.opened || how.error ? explain(how, this.init) : await this.diagnose();
    if (this.isOver) return;
    this.failingSince ??= performance.now();
    const late = performance.now() - this.failingSince > GIVE_UP_MS || this.attempts === MAX_ATTEMPTS;
    if (problem.retryMs === null || late) {
      if (late) problem.sentence += " Trying again has not helped.";
      this.on.problem(problem);
      return this.giveUp();
    }
    const backoff = BACKOFF_MS[Math.min(this.attempts++, BACKOFF_MS.length - 1)];
    this.again(Math.max(problem.retryMs, backoff) * (1 + 0.2 * Math.random()), problem);
  }

  again(delay, problem) {
    this.to("reconnecting", { sentence: problem.sentence, at: performance.now() + delay });
    this.timer = setTimeout(() => this.connect(), delay);
  }

  /** Connects now instead of waiting for the time to come back. */
  hurry() {
    if (this.timer && !this.isOver) this.connect();
  }

  behind() {
    this.link.drop();
    this.link = null;
    this.failingSince ??= performance.now();
    this.again(0, { sentence: "The network is too slow for the audio." });
  }

  giveUp() {
    // The words of an interim are the best there is.
    if (this.newest?.message.text) this.final(this.newest.message, this.newest.from);
    this.over();
  }

  over() {
    if (this.isOver) return;
    this.isOver = true;
    clearTimeout(this.timer);
    this.link?.drop();
    if (this.isOpen) this.source.close();
    this.on.interim("");
    this.to("idle");
    this.on.end(this.tape ? this.base + this.tape.ms(this.tape.end) : this.base);
  }
}
