// The view Live: the microphone, and its text while somebody speaks.

import * as api from "./api.js";
import { byId, clock, el, say, sentence } from "./dom.js";
import { copyButton, download, downloadMenu, notLaidOut } from "./downloads.js";
import { LiveSession } from "./live_session.js";
import { Capture, unavailable } from "./microphone.js";
import { languageCode, languageField, languageName, modelField } from "./options.js";
import { asText, Segment } from "./transcript.js";

const NEAR = 120; // pixels from the end, within which the view follows the text
const DELAYS = [
  ["minimal", "at once"],
  ["low", "soon"],
  ["medium", "a bit later, surer"],
  ["high", "later, surer still"],
];

export class Live {
  #opening = false;
  #capture = null;
  #session = null;
  #turns = []; // that are final, of all sessions
  #drawn = new Set(); // their ids
  #offset = 0; // seconds of the sessions before
  #state = "";
  #unsaved = false;

  /** @param {Element} element to fill. @param {(error: ApiError) => void} unauthorized asks for a key. */
  constructor(element, unauthorized) {
    this.unauthorized = unauthorized;
    this.start = el("button", { class: "primary", on: { click: () => this.#press() } }, "Start");
    this.time = el("span", { class: "figures" }, "0:00");
    this.meter = el("meter", { min: 0, max: 1, value: 0, "aria-label": "Level of the microphone" });
    this.sound = el("div", { class: "recording", hidden: true }, this.time, this.meter);
    this.fault = el("p", { class: "fault", role: "alert", hidden: true });
    this.form = el("form", { class: "options", "aria-label": "Options of the next start", autocomplete: "off", on: { submit: (event) => event.preventDefault() } });
    this.state = el("p", { class: "state" });
    this.log = el("div", { class: "lines turns", role: "log", "aria-label": "What was said" });
    // Hidden from screen readers, who would read every change: they get each turn once, when it is final.
    this.partial = el("div", { class: "lines partial", "aria-hidden": "true" });
    this.blank = el("div", { class: "blank" }, el("h2", {}, "Text while you speak"),
      el("p", {}, "Start, and talk. A sentence is pale while it goes on. Words that are there do not change."),
      el("p", { class: "faint" }, "The microphone's sound goes to this server and nowhere else. Nothing is stored: download what you need."));
    this.clear = el("button", { class: "quiet", on: { click: () => this.#clear() } }, "Clear");
    this.trouble = el("p", { class: "fault", role: "alert", hidden: true });
    this.tools = el("div", { class: "tools", hidden: true },
      el("div", { class: "row" }, copyButton(() => asText(this.#segments())), downloadMenu((format) => this.#download(format)), this.clear), this.trouble);
    element.append(
      el("div", { class: "side" }, el("div", { class: "drop" }, el("div", { class: "row" }, this.start), this.sound, this.fault), this.form),
      el("div", { class: "sheet" }, this.blank, this.state, this.tools, this.log, this.partial));
    const why = unavailable();
    this.start.disabled = Boolean(why);
    if (why) this.#trouble(why);
    addEventListener("beforeunload", (event) => {
      if (this.#session || this.#unsaved) event.preventDefault();
    });
  }

  /** Get the models, when somebody looks. */
  async show() {
    if (this.form.childElementCount) return;
    try {
      const models = await api.models();
      const delay = el("select", { id: "l-delay", name: "delay" }, DELAYS.map(([value, label]) => el("option", { value, selected: value === "low" }, label)));
      this.form.replaceChildren(modelField("l-model", models), languageField("l-language"),
        el("div", { class: "field" }, el("label", { for: "l-delay" }, "Words"), delay),
        el("div", { class: "field wide" }, el("label", { for: "l-keywords" }, "Keywords"), el("textarea", { id: "l-keywords", name: "keywords", rows: 2, placeholder: "Names and terms to expect, one a line" })));
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      if (error.code === "invalid_api_key") this.unauthorized(error);
      else this.#trouble(`${sentence(error.message)} ${error.advice}`);
    }
  }

  #press() {
    if (!this.#session) this.#begin();
    else if (this.#capture) this.#end();
    else this.#session.cancel();
  }

  async #begin() {
    if (this.#opening) return; // a disabled button would lose the focus
    this.#trouble("");
    this.#opening = true;
    try {
      this.#capture = await Capture.begin();
    } catch (error) {
      this.#trouble(error.message);
      return;
    } finally {
      this.#opening = false;
    }
    const session = (this.#session = new LiveSession(this.#options()));
    session.addEventListener("change", () => this.#draw(session));
    this.#capture.addEventListener("samples", ({ detail }) => session.push(detail));
    this.#capture.addEventListener("level", ({ detail }) => this.#level(detail));
    this.#capture.addEventListener("gone", () => {
      this.#trouble("The microphone was taken away. Connect one, then start again.");
      this.#end();
    });
    this.#draw(session);
  }

  /** The microphone is off; the text of what was said still comes. */
  async #end() {
    const [capture, session] = [this.#capture, this.#session];
    this.#capture = null;
    await capture.stop();
    session.finish();
    this.#draw(session);
  }

  #options() {
    const values = Object.fromEntries(new FormData(this.form));
    const keywords = (values.keywords ?? "").split("\n").map((word) => word.trim()).filter(Boolean);
    return {
      model: values.model || "whisper-1",
      language: values.language ? languageCode(values.language) : null,
      keywords: keywords.length ? keywords : null,
      delay: values.delay || null,
    };
  }

  #level(level) {
    this.meter.value = level;
    this.time.textContent = clock(this.#offset + (this.#session?.seconds ?? 0));
  }

  #draw(session) {
    if (session !== this.#session) return;
    this.#drawTurns(session);
    this.state.textContent = this.#stateInWords(session);
    if (session.state !== this.#state) say(STATES[session.state] ?? "");
    this.#state = session.state;
    if (session.over) this.#over(session);
    this.start.textContent = !this.#session ? "Start" : this.#capture ? "Stop" : "Do not wait";
    this.start.classList.toggle("primary", !this.#session);
    byId("tab-live").classList.toggle("on", this.#capture !== null);
    this.sound.hidden = !this.#capture;
    this.blank.hidden = Boolean(this.#session) || this.#turns.length > 0;
    this.tools.hidden = !this.#turns.length;
    this.clear.hidden = Boolean(this.#session);
  }

  /** The session has ended, by itself or not. */
  #over(session) {
    this.#session = null;
    this.#capture?.stop();
    this.#capture = null;
    this.#offset += session.seconds;
    const { error } = session;
    if (error?.code === "invalid_api_key") this.unauthorized(error);
    if (error) this.#trouble(`${sentence(error.message)} ${error.advice}`);
  }

  #drawTurns(session) {
    const page = document.documentElement;
    const follows = page.scrollHeight - page.scrollTop - innerHeight < NEAR;
    for (const turn of session.turns.filter(({ id, final }) => final && !this.#drawn.has(id))) {
      const later = shifted(turn, this.#offset);
      this.#drawn.add(turn.id);
      this.#turns.push(later);
      this.log.append(line(later));
      this.#unsaved = true;
    }
    const open = session.turns.filter(({ final, text }) => !final && text);
    this.partial.replaceChildren(...open.map((turn) => line(shifted(turn, this.#offset))));
    if (follows && !this.log.closest("[hidden]")) page.scrollTop = page.scrollHeight;
  }

  #stateInWords(session) {
    if (session.state === "failed") return "";
    const { language } = [...this.#turns, ...session.turns].findLast((turn) => turn.language) ?? {};
    let late = null;
    if (session.behind > 1) late = `text is ${session.behind.toFixed(0)} s behind`;
    else if (session.lag !== null) late = `text comes ${session.lag.toFixed(1)} s after the words`;
    return [STATES[session.state], language && languageName(language), late].filter(Boolean).join(" · ");
  }

  #segments() {
    return this.#turns.filter(({ text }) => text).map((turn) => new Segment(turn));
  }

  async #download(format) {
    this.trouble.hidden = true;
    try {
      await download(format, "Live", this.#segments(), () => this.#json());
      this.#unsaved = false;
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      this.trouble.textContent = notLaidOut(error);
      this.trouble.hidden = false;
    }
  }

  #json() {
    const turns = this.#turns.filter(({ text }) => text);
    return {
      text: turns.map(({ text }) => text).join(" "),
      duration: this.#offset,
      segments: turns.map(({ start, end, text, language }, id) => ({ id, start, end, text, language })),
      words: turns.flatMap(({ words }) => words),
    };
  }

  #clear() {
    if (this.#unsaved && !confirm("This text was not downloaded. Clear it?")) return;
    this.#turns = [];
    this.#drawn.clear();
    this.#offset = 0;
    this.#unsaved = false;
    this.log.replaceChildren();
    this.state.textContent = "";
    this.tools.hidden = true;
    this.blank.hidden = false;
    this.start.focus();
  }

  #trouble(words) {
    this.fault.textContent = words;
    this.fault.hidden = !words;
  }
}

const STATES = {
  connecting: "Connecting",
  listening: "Listening",
  reconnecting: "The connection was lost. What you say is kept; connecting again",
  finishing: "Waiting for the last words",
  ended: "Stopped",
  failed: "Failed",
};

/** A turn whose times are so many seconds later. */
function shifted(turn, seconds) {
  const later = ({ start, end, ...rest }) => ({ ...rest, start: start + seconds, end: end + seconds });
  return { ...later(turn), words: turn.words.map(later) };
}

function line({ start, text, language, error }) {
  const failed = error && el("span", { class: "fault" }, ` ${sentence(error.message)}`);
  return el("div", { class: "line" }, el("span", { class: "time" }, clock(start)), el("p", { class: "text", lang: language }, text, failed));
}
