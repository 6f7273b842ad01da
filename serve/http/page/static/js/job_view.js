// One file, large: its sound, how far it is, its text and what can be done with it.

import * as api from "./api.js";
import { clock, dollars, duration, el, figure, say, sentence } from "./dom.js";
import { copyButton, download, downloadMenu, notLaidOut } from "./downloads.js";
import { languageName } from "./options.js";
import { Player } from "./player.js";
import { asJson, asText } from "./transcript.js";
import { TranscriptView } from "./transcript_view.js";

export class JobView {
  /**
   * @param {Job} job
   * @param {(error: ApiError) => void} unauthorized asks for a key.
   * @param {() => void} again sends the file once more.
   */
  constructor(job, unauthorized, again) {
    this.job = job;
    this.unauthorized = unauthorized;
    this.player = new Player(job);
    this.state = el("p", { class: "state" });
    this.bar = el("progress", { class: "bar", max: 1, "aria-label": "Progress" });
    this.cancel = el("button", { on: { click: () => job.cancel() } }, "Cancel");
    this.again = el("button", { on: { click: again } }, "Try again");
    this.fault = el("div", { class: "fault-box", role: "alert", hidden: true });
    this.notes = el("ul", { class: "notes", hidden: true });
    this.made = el("details", { class: "made", hidden: true }, el("summary", {}, "How it was made"), el("div"));
    this.tools = this.#tools();
    this.desk = el("div", { class: "sticky" }, this.player.element, this.tools);
    this.lines = el("div");
    this.element = el("div", {},
      el("header", { class: "job-head" }, el("h2", {}, job.file.name), el("div", { class: "row" }, this.cancel, this.again)),
      this.state, this.bar, this.fault, this.notes, this.made,
      this.desk, this.lines);
    this.onChange = () => this.change();
    this.onText = () => this.text();
    job.addEventListener("change", this.onChange);
    job.addEventListener("text", this.onText);
    this.#begin();
    this.change();
  }

  close() {
    this.job.removeEventListener("change", this.onChange);
    this.job.removeEventListener("text", this.onText);
    this.view.close();
    this.player.close();
  }

  #begin() {
    this.view?.close();
    this.view = new TranscriptView(this.job, this.player);
    this.view.addEventListener("edit", () => {
      this.job.unsaved = true;
      if (this.find.value) this.#search();
    });
    this.lines.replaceChildren(this.view.element);
    this.drawn = this.job.segments;
  }

  text() {
    if (this.drawn !== this.job.segments) this.#begin();
    this.view.update();
    this.player.show(this.job.segments);
    this.change();
  }

  change() {
    const { job } = this;
    if (this.drawn !== job.segments) this.#begin();
    this.element.dataset.state = job.state;
    this.state.textContent = stateInWords(job);
    this.bar.hidden = !job.running;
    if (job.progress === null) this.bar.removeAttribute("value");
    else this.bar.value = job.progress;
    this.cancel.hidden = job.over;
    this.again.hidden = job.state !== "cancelled" && (job.state !== "failed" || job.error?.isOfFile);
    this.tools.hidden = !job.segments.length;
    this.desk.hidden = job.state === "failed" && !job.segments.length && !this.player.playable;
    this.#explain(job.error);
    this.#account(job.summary);
    if (job.over) {
      this.view.update();
      this.player.show(job.segments);
    }
  }

  #explain(error) {
    this.fault.hidden = !error;
    if (!error || this.explained === error) return;
    this.explained = error;
    const key = error.code === "invalid_api_key" && el("button", { on: { click: () => this.unauthorized(error) } }, "Enter an API key");
    this.fault.replaceChildren(el("p", {}, el("strong", {}, sentence(error.message)), " ", error.advice), key || "");
  }

  #account(summary) {
    if (!summary || this.accounted === summary) return;
    this.accounted = summary;
    this.notes.hidden = !summary.warnings;
    this.notes.replaceChildren(...(summary.warnings ?? []).map(({ message }) => el("li", {}, sentence(message))));
    const { murmur } = summary;
    this.made.hidden = !murmur;
    if (!murmur) return;
    const rows = murmur.models.map(({ model, chunks, device_s }) => [model, figure(chunks), duration(device_s)]);
    const raised = murmur.escalated.map(({ model, reason, chunks }) => el("li", {}, `${chunks} of ${model} went to a more accurate model: ${REASONS[reason] ?? reason}`));
    const { audio } = murmur;
    this.made.lastElementChild.replaceChildren(
      table(["Model", "Chunks", "Time of a replica"], rows),
      raised.length ? el("ul", {}, raised) : "",
      el("p", { class: "faint" }, [`${dollars(murmur.usd)} at the price of the replicas`, audio && `track ${audio.track} of ${audio.n_tracks}, ${audio.channels}`].filter(Boolean).join(" · ")));
  }

  #tools() {
    this.find = el("input", { type: "search", placeholder: "Search", "aria-label": "Search the transcript", on: { input: () => this.#searchSoon(), keydown: (event) => this.#searchKey(event) } });
    this.count = el("output", { class: "figures faint count" });
    const step = (label, by, glyph) => el("button", { class: "quiet step", "aria-label": label, on: { click: () => this.#go(by) } }, glyph);
    const menu = downloadMenu((format) => this.download(format));
    const copy = copyButton(() => asText(this.job.segments));
    this.trouble = el("p", { class: "fault", role: "alert", hidden: true });
    return el("div", { class: "tools" },
      el("div", { class: "find" }, this.find, this.count, step("Next place", 1, "↓"), step("Place before", -1, "↑")),
      el("p", { class: "legend faint" }, el("mark", { class: "legend-unsure" }, "tinted"), " words are unsure"),
      el("div", { class: "row" }, copy, menu), this.trouble);
  }

  /** Once fingers rest: a letter alone is found everywhere. */
  #searchSoon() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.#search(), 120);
  }

  #search() {
    clearTimeout(this.typing);
    this.typing = null;
    const n = this.view.find(this.find.value);
    this.count.textContent = this.find.value.trim() ? (n ? `${n}` : "none") : "";
    if (this.find.value.trim()) say(n === 1 ? "1 place" : `${n || "no"} places`);
  }

  #go(step) {
    const at = this.view.go(step);
    if (at) this.count.textContent = `${at} of ${this.count.textContent.split(" ").at(-1)}`;
  }

  #searchKey(event) {
    if (event.key === "Enter") {
      if (this.typing) this.#search();
      this.#go(event.shiftKey ? -1 : 1);
    }
    else if (event.key === "Escape" && this.find.value) {
      this.find.value = "";
      this.#search();
    } else return;
    event.preventDefault();
  }

  async download(format) {
    const { job } = this;
    this.trouble.hidden = true;
    try {
      await download(format, job.file.name.replace(/\.[^.]+$/, ""), job.segments, () => asJson(job));
      job.unsaved = false;
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      this.trouble.textContent = notLaidOut(error);
      this.trouble.hidden = false;
    }
  }
}

const REASONS = {
  probability: "its words were improbable",
  compression: "its text repeated itself",
  repetition: "it repeated what was said before",
  no_speech: "it took speech for silence",
  language: "its language was uncertain",
};

/** What goes on, in a few words. */
export function stateInWords(job) {
  const { state, reached, duration: length, summary } = job;
  if (state === "waiting") return "Waits for the files before it";
  if (state === "uploading") return job.uploaded ? `Uploading, ${Math.round(job.uploaded * 100)} %` : "Uploading";
  if (state === "queued") return "Uploaded; waiting for the first text";
  if (state === "transcribing") return length ? `Transcribing, ${clock(reached)} of ${clock(length)}` : `Transcribing, ${clock(reached)} so far`;
  if (state === "cancelled") return reached ? `Cancelled at ${clock(reached)}` : "Cancelled";
  if (state === "failed") return reached ? `Stopped at ${clock(reached)}` : "Failed";
  const languages = (summary.languages ?? []).map(({ code }) => languageName(code)).join(", ");
  const models = (summary.murmur?.models ?? []).map(({ model }) => model).join(" and ");
  const speed = job.took ? `${clock(length)} in ${duration(job.took)}` : clock(length);
  const parts = [languages || "No speech found", speed, models, summary.murmur && dollars(summary.murmur.usd)];
  return parts.filter(Boolean).join(" · ");
}

function table(heads, rows) {
  return el("table", {}, el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell))))));
}
