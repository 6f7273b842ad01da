// The form with the API's options. What stands behind "More options" comes from the server's own
// description of its form, so that it has every field, its default and its limits.

import * as api from "./api.js";
import { el } from "./dom.js";
import { WORDS } from "./option_words.js";

const OWN = ["file", "model", "language", "response_format", "stream", "timestamp_granularities[]", "include[]", "chunking_strategy"];
const SUBTITLES = /^(max_(line|words|cue)|highlight)/; // of formats that the page does not ask for
const KEPT = "murmur-options"; // in this tab, so that a reload loses nothing

export class Options {
  #form;
  #translated = new Set();

  constructor(form) {
    this.#form = form;
    form.addEventListener("change", () => {
      this.#adapt();
      sessionStorage.setItem(KEPT, JSON.stringify([...new FormData(form)]));
    });
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Fill the form with the server's models and fields. */
  async load() {
    const [models, schema] = await Promise.all([api.models(), api.schema()]);
    const properties = formOf(schema, "transcriptions");
    this.#translated = new Set(Object.keys(formOf(schema, "translations")));
    this.#form.replaceChildren(...this.#basic(models), this.#more(properties));
    this.#restore();
    this.#adapt();
  }

  /** The fields that are given: `{name: value}`, with `task`. */
  values() {
    const values = {};
    for (const [name, value] of new FormData(this.#form)) if (value !== "") values[name] = value;
    values.task ??= "transcribe";
    values.model ??= "whisper-1";
    if (values.language) values.language = languageCode(values.language);
    if (values.task === "translate") {
      for (const name of Object.keys(values)) if (name !== "task" && !this.#translated.has(name)) delete values[name];
    }
    return values;
  }

  get valid() {
    return [...this.#form.elements].every((input) => input.checkValidity());
  }

  /** What is wrong with the form, told to the person; returns whether it is right. */
  check() {
    const wrong = [...this.#form.elements].find((input) => !input.checkValidity());
    if (!wrong) return true;
    for (let box = wrong.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    wrong.reportValidity();
    return false;
  }

  /** Options as they were before the page was loaded again, as far as the server still has them. */
  #restore() {
    for (const [name, value] of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) {
      const input = this.#form.elements[name];
      if (!input || (input.options && ![...input.options].some((option) => option.value === value))) continue;
      input.value = value;
      input.dispatchEvent(new Event("input"));
    }
  }

  #basic(models) {
    return [
      modelField("o-model", models),
      languageField("o-language"),
      el("datalist", { id: "languages" }, [...LANGUAGES.values()].map(languageName).sort().map((name) => el("option", { value: name }))),
      el("div", { class: "field" }, el("label", { for: "o-task" }, "Text in"),
        el("select", { id: "o-task", name: "task" }, el("option", { value: "transcribe" }, "the language spoken"), el("option", { value: "translate" }, "English (translated)"))),
    ];
  }

  #more(properties) {
    const names = Object.keys(properties).filter((name) => !OWN.includes(name) && !SUBTITLES.test(name));
    names.sort((a, b) => rank(a) - rank(b));
    const fields = (chosen) => el("div", { class: "more-fields" }, chosen.map((name) => field(name, properties[name])));
    const [usual, expert] = [false, true].map((wanted) => names.filter((name) => isExpert(name) === wanted));
    return el("details", { class: "more" }, el("summary", {}, "More options"), fields(usual),
      el("details", { class: "more" }, el("summary", {}, "For experts"), fields(expert)));
  }

  /** Some fields make sense with some others only. */
  #adapt() {
    const { model, task, quality } = this.#form.elements;
    if (!model) return;
    if (quality) quality.disabled = model.value !== "auto";
    for (const input of this.#form.elements) {
      if (input.name && !["model", "task", "quality"].includes(input.name)) input.disabled = task.value === "translate" && !this.#translated.has(input.name);
    }
  }
}

/** The choice of a model among those of the server. */
export function modelField(id, models) {
  const tiers = models.filter((model) => model.id === model.root && model.id !== "auto");
  const names = [...tiers.map(({ id }) => [id, id]), ["auto", "auto: cheapest that fits"]];
  const preferred = models.find(({ id }) => id === "whisper-1")?.root;
  return el("div", { class: "field" }, el("label", { for: id }, "Model"),
    el("select", { id, name: "model" }, names.map(([value, label]) => el("option", { value, selected: value === preferred }, label))));
}

/** A language by its name; the form of files brings the list of names. */
export function languageField(id) {
  const check = () => input.setCustomValidity(isLanguage(input.value) ? "" : `“${input.value.trim()}” is no language that is known here. Choose one of the list, or leave it empty.`);
  const input = el("input", { id, name: "language", placeholder: "detected", list: "languages", spellcheck: false, on: { input: check, focus: check } });
  return el("div", { class: "field" }, el("label", { for: id }, "Language"), input);
}

const ORDER = [...WORDS.keys()];
const rank = (name) => (WORDS.has(name) ? ORDER.indexOf(name) : ORDER.length);
const isExpert = (name) => !WORDS.has(name) || Boolean(WORDS.get(name)[3]);

function formOf(schema, route) {
  return schema.paths[`/v1/audio/${route}`].post.requestBody.content["multipart/form-data"].schema.properties;
}

/** A label and an input for a field of the form, by its schema. */
function field(name, schema) {
  const id = `o-${name.replace("[]", "")}`;
  const kinds = (schema.anyOf ?? [schema]).filter((kind) => kind.type !== "null");
  const kind = { ...schema, ...kinds[0] };
  const [title, help, choices] = WORDS.get(name) ?? [capital(name.replace("[]", "").replace(/_/g, " ")), (schema.description ?? "").replace(/`/g, "").replace(/\s+/g, " ")];
  return el("div", { class: "field wide" }, el("label", { for: id }, title), input(id, name, kind, choices),
    el("p", { class: "help", id: `${id}-help` }, help, " ", el("code", {}, name.replace("[]", ""))));
}

/** `choices` are labels by value: of the schema's values, or instead of what else could be typed. */
function input(id, name, kind, choices) {
  const common = { id, name, "aria-describedby": `${id}-help` };
  const preset = kind.default;
  const given = preset === null || preset === undefined || Array.isArray(preset) ? "" : String(preset);
  if (kind.enum) return select(common, kind.enum, given, choices);
  if (kind.type === "boolean") return select(common, ["true", "false"], given, choices);
  if (choices) return select(common, Object.keys(choices), given, choices);
  if (kind.type === "number" || kind.type === "integer") {
    const bound = (limit, open) => limit ?? open ?? "";
    return el("input", {
      ...common,
      type: "number",
      inputMode: "decimal",
      min: bound(kind.minimum, kind.exclusiveMinimum),
      max: bound(kind.maximum, kind.exclusiveMaximum),
      step: kind.type === "integer" ? "1" : "any",
      placeholder: given || "not set",
    });
  }
  if (name === "prompt" || name === "keywords[]") return el("textarea", { ...common, rows: 2 });
  return el("input", { ...common, type: "text" });
}

function select(common, values, preset, labels) {
  const label = (value) => labels?.[value] ?? value;
  const rest = values.filter((value) => value !== preset);
  const first = preset ? `${label(preset)} (usual)` : "the server's choice";
  return el("select", common, el("option", { value: "" }, first), rest.map((value) => el("option", { value }, label(value))));
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** Codes of the languages that Whisper knows, by the names that the browser has for them. */
const LANGUAGES = new Map(
  (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja jw ka kk km kn ko " +
    "la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk " +
    "ur uz vi yi yo yue zh"
  )
    .split(" ")
    .map((code) => [languageName(code).toLowerCase(), code]),
);

/** The code of a language by its name; else what is given. */
export const languageCode = (name) => LANGUAGES.get(name.trim().toLowerCase()) ?? name.trim();

/** False for a typing error. Codes and locales are left to the server, which knows more of them. */
const isLanguage = (text) => text.trim() === "" || LANGUAGES.has(text.trim().toLowerCase()) || /^[a-z]{2,4}([-_.].*)?$/i.test(text.trim());

/** The English name of an ISO code. */
export function languageName(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(code === "jw" ? "jv" : code);
  } catch {
    return code;
  }
}
