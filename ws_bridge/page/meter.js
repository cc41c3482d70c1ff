// The level of the last seconds as bars, the newest at the right.

const BAR_PX = 3;
const STEP_PX = 5;
const BAR_MS = 50;
const QUIETEST_DB = -60;
const LOUDEST_DB = -9;

export class Meter {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = [];
    this.start();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  start() {
    this.energy = this.count = this.since = 0;
  }

  /** Takes a packet of `ms` milliseconds. */
  take(samples, ms) {
    for (const sample of samples) this.energy += (sample / 32768) ** 2;
    this.count += samples.length;
    this.since += ms;
    if (this.since < BAR_MS) return;
    const db = 10 * Math.log10(this.energy / this.count + 1e-9);
    this.levels.push(Math.min(1, Math.max(0, (db - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB))));
    this.start();
    requestAnimationFrame(() => this.draw());
  }

  reset() {
    this.levels = [];
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const scale = devicePixelRatio;
    const { clientWidth: width, clientHeight: height } = canvas;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const bars = Math.floor(width / STEP_PX);
    this.levels.splice(0, Math.max(0, this.levels.length - bars));
    const paper = canvas.getContext("2d");
    paper.scale(scale, scale);
    const style = getComputedStyle(canvas);
    for (let i = 0; i < bars; i++) {
      const level = this.levels[this.levels.length - bars + i] ?? 0;
      paper.fillStyle = level ? style.color : style.outlineColor;
      const tall = Math.max(BAR_PX, level * height);
      paper.beginPath();
      paper.roundRect(width - (bars - i) * STEP_PX, (height - tall) / 2, BAR_PX, tall, BAR_PX / 2);
      paper.fill();
    }
  }
}
