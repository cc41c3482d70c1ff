// What a stream is asked for: the form's fields, which of them the server has a use for, and what was chosen last time.

const STORE = "live-transcript-options";
const KEPT = ["model", "look_ahead_ms", "language", "phrases", "boost", "endpoint_ms"];
const AUTO = "auto";

export class Options {
  constructor(panel, form) {
    this.panel = panel;
    this.fields = form.elements;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => this.keep());
    this.fields.model.addEventListener("change", () => this.offerModel());
    this.recall();
  }

  get key() {
    return this.fields.key.value.trim();
  }

  /** The model with its look-ahead that a stream gets now; null before the server has told. */
  get served() {
    const { model, look_ahead_ms } = this.fields;
    return (
      this.ways?.find(
        (way) =>
          (!model.value || way.name === model.value) &&
          (!look_ahead_ms.value || way.look_ahead_ms === Number(look_ahead_ms.value)),
      ) ?? null
    );
  }

  /** Calls back when another key has been entered, and when anything else has been chosen. */
  onChange(key, other) {
    this.fields.key.addEventListener("change", key);
    this.fields.key.form.addEventListener("change", other);
  }

  /** Shows what can be chosen of what the server offers; `info` as `/info` has it. */
  offer(info) {
    if (info?.error?.code === "unauthenticated" || this.key) this.askForKey();
    if (!info?.service) return;
    const { service } = info;
    // A service that knows nothing of several models serves one.
    this.ways = service.served?.length ? service.served : [{ ...service, name: service.model }];
    const names = [...new Set(this.ways.map(({ name }) => name))];
    this.choose("model", names, (name) => name, names[0]);
    this.offerModel();
  }

  /** Shows what the chosen model offers: the first of its look-aheads is what a stream gets that names none. */
  offerModel() {
    const name = this.fields.model.value || this.ways[0].name;
    const ways = this.ways.filter((way) => way.name === name);
    const waits = ways.map((way) => way.look_ahead_ms);
    this.choose("look_ahead_ms", waits, (ms) => `${ms} ms`, waits[0]);
    const { takes_language, languages, default_language_code } = ways[0];
    this.choose("language", takes_language ? languages : [], languageName, default_language_code);
  }

  askForKey() {
    document.getElementById("key-field").hidden = false;
  }

  /** Fills a list; one that leaves no choice is not shown. `fallback`: what the server takes where nothing is named. */
  choose(name, values, label, fallback) {
    const select = this.fields[name];
    const isNamed = fallback !== undefined && fallback !== "";
    const items = values.filter((value) => value !== fallback);
    const first = isNamed && values.length ? [new Option(label(fallback), "")] : [];
    select.replaceChildren(...first, ...items.map((value) => new Option(label(value), value)));
    select.value = this.remembered[name] ?? "";
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.closest(".field").hidden = select.options.length < 2;
  }

  /** The fields of `init` that say how the stream is recognized. */
  init() {
    const { phrases, boost, endpoint_ms, model, look_ahead_ms, language } = this.fields;
    const init = { endpoint_ms: Number(endpoint_ms.value) };
    if (model.value) init.model = model.value;
    if (look_ahead_ms.value) init.look_ahead_ms = Number(look_ahead_ms.value);
    if (language.value) init.language = language.value;
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
