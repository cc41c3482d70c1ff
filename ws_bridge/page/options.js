// What a stream is asked for: the form's fields, which of them the server has a use for, and what was chosen last time.

const STORE = "live-transcript-options";
const KEPT = ["model", "look_ahead_ms", "language", "phrases", "boost", "endpoint_ms"];
const AUTO = "auto";

export class Options {
  constructor(panel, form) {
    this.panel = panel;
    this.form = form;
    this.fields = form.elements;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => this.keep());
    this.recall();
  }

  get key() {
    return this.fields.key.value.trim();
  }

  /** Calls back when another key has been entered. */
  onKey(callback) {
    this.fields.key.addEventListener("change", callback);
  }

  /** Shows what can be chosen of what the server offers; `info` as `/info` has it. */
  offer(info) {
    if (info?.error?.code === "unauthenticated" || this.key) this.askForKey();
    const service = info?.service;
    if (!service) return;
    const languages = service.takes_language ? service.languages : [];
    this.choose("language", languages, languageName, service.default_language_code);
  }

  askForKey() {
    document.getElementById("key-field").hidden = false;
  }

  /** Fills a list; one that leaves no choice is not shown. `fallback`: what the server takes where nothing is named. */
  choose(name, values, label, fallback) {
    const select = this.fields[name];
    const chosen = this.remembered[name] ?? "";
    const items = values.filter((value) => value !== AUTO && value !== fallback);
    const first = fallback ? [new Option(label(fallback), "")] : [];
    select.replaceChildren(...first, ...items.map((value) => new Option(label(value), value)));
    select.value = chosen;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.closest(".field").hidden = select.options.length < 2;
  }

  /** The fields of `init` that say how the stream is recognized. */
  init() {
    const { phrases, boost, endpoint_ms, language } = this.fields;
    const init = { endpoint_ms: Number(endpoint_ms.value), language: language.value };
    const listed = phrases.value.split(/[\n,;]/).map((phrase) => phrase.trim()).filter(Boolean);
    if (listed.length) Object.assign(init, { phrases: listed, boost: Number(boost.value) });
    if (this.key) init.key = this.key;
    return init;
  }

  /** Opens the panel at the field that is at fault; false if there is none of that name. */
  point(name) {
    const field = this.fields[name];
    if (!field) return false;
    if (name === "key") this.askForKey();
    this.panel.open = true;
    field.setAttribute("aria-invalid", "true");
    field.addEventListener("input", () => field.removeAttribute("aria-invalid"), { once: true });
    field.focus();
    return true;
  }

  recall() {
    try {
      this.remembered = JSON.parse(localStorage.getItem(STORE)) ?? {};
    } catch {
      // No storage, or not ours: the defaults are fine.
      this.remembered = {};
    }
    for (const name of KEPT) if (this.remembered[name]) this.fields[name].value = this.remembered[name];
    for (const name of ["boost", "endpoint_ms"]) if (!this.fields[name].value) this.fields[name].selectedIndex = 0;
  }

  keep() {
    for (const name of KEPT) this.remembered[name] = this.fields[name].value;
    try {
      localStorage.setItem(STORE, JSON.stringify(this.remembered));
    } catch {
      // They hold until the page is left.
    }
  }
}

function languageName(code) {
  if (code === AUTO) return "found out by the model";
  try {
    return `${new Intl.DisplayNames(undefined, { type: "language" }).of(code)} (${code})`;
  } catch {
    return code;
  }
}
