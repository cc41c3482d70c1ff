// The transcript on the screen: finals as paragraphs of words that tell about themselves, the interim after them.

const UNSURE = 0.6;

export class View {
  constructor({ region, finals, interim, welcome, tip }) {
    Object.assign(this, { finals, interimLine: interim, welcome, tip });
    for (const name of ["pointerover", "focusin"]) region.addEventListener(name, ({ target }) => this.tell(target));
    for (const name of ["pointerout", "focusout"]) region.addEventListener(name, () => (this.tip.hidden = true));
    finals.addEventListener("keydown", (event) => this.step(event));
  }

  final(segment) {
    this.welcome.hidden = true;
    this.keepingUp(() => {
      const line = document.createElement("p");
      const time = document.createElement("time");
      time.textContent = clock(segment.start_ms);
      const text = document.createElement("span");
      // How a screen reader pronounces it.
      if (segment.language) text.lang = segment.language;
      text.append(...wordsOf(segment));
      line.append(time, text);
      this.finals.append(line);
      // One stop for the Tab key: from there the arrows go from word to word.
      if (!this.finals.querySelector("[tabindex='0']")) line.querySelector(".word")?.setAttribute("tabindex", "0");
    });
  }

  interim(text) {
    if (text) this.welcome.hidden = true;
    this.keepingUp(() => (this.interimLine.textContent = text));
  }

  gap(sentence) {
    const line = document.createElement("p");
    line.className = "gap";
    line.textContent = sentence;
    this.keepingUp(() => this.finals.append(line));
  }

  clear() {
    this.finals.replaceChildren();
    this.interimLine.textContent = "";
    this.welcome.hidden = false;
  }

  /** Changes the transcript; a reader who is at its end stays there. */
  keepingUp(change) {
    const page = document.scrollingElement;
    const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 80;
    change();
    if (atEnd) page.scrollTop = page.scrollHeight;
  }

  tell(target) {
    const about = target.dataset?.about;
    if (!about) return;
    this.tip.textContent = about;
    target.setAttribute("aria-describedby", this.tip.id);
    this.tip.hidden = false;
    const word = target.getBoundingClientRect();
    const tip = this.tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, word.left + (word.width - tip.width) / 2), innerWidth - tip.width - 8);
    const above = word.top - tip.height - 6;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${above > 0 ? above : word.bottom + 6}px`;
  }

  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !event.target.matches(".word")) return;
    const words = [...this.finals.querySelectorAll(".word")];
    const next = words[words.indexOf(event.target) + by];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

/** The text as it is, with each word found in it marked. */
function wordsOf({ text, words }) {
  const nodes = [];
  let at = 0;
  for (const word of words) {
    const found = text.indexOf(word.word, at);
    if (found < 0) continue;
    const mark = document.createElement("span");
    mark.className = word.confidence < UNSURE ? "word unsure" : "word";
    mark.tabIndex = -1;
    mark.dataset.about =
      `${tenths(word.start_ms)} to ${tenths(word.end_ms)}, ${Math.round(100 * word.confidence)} % sure`;
    mark.textContent = word.word;
    nodes.push(text.slice(at, found), mark);
    at = found + word.word.length;
  }
  return [...nodes, text.slice(at)];
}

export function clock(ms) {
  const s = Math.floor(ms / 1000);
  return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
}

const tenths = (ms) => `${clock(ms)}.${Math.floor((ms % 1000) / 100)}`;
