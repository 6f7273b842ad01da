// The view Transcribe: adding files, the list of them, and the one that is looked at.

import * as api from "./api.js";
import { byId, bytes, clock, el, say } from "./dom.js";
import { Job } from "./job.js";
import { JobView, stateInWords } from "./job_view.js";
import { unavailable } from "./microphone.js";
import { Options } from "./options.js";
import { Recorder } from "./recorder.js";

const AT_ONCE = 3; // files that are sent side by side

export class Transcribe {
  #jobs = [];
  #rows = new Map();
  #view = null;
  #recorder = null;
  #held = []; // files that wait until the options are right

  /** @param {(error: ApiError) => void} unauthorized asks for a key. */
  constructor(unauthorized) {
    this.unauthorized = unauthorized;
    this.options = new Options(byId("options"));
    this.#adding();
    byId("options").addEventListener("change", () => this.#release());
    this.#recording();
    addEventListener("beforeunload", (event) => {
      if (this.#jobs.some((job) => job.running || job.unsaved)) event.preventDefault();
    });
    addEventListener("keydown", (event) => this.#key(event));
  }

  load() {
    return this.options.load();
  }

  /** Files whose key was refused go again. */
  retryRefused() {
    for (const job of this.#jobs) if (job.error?.code === "invalid_api_key") job.start();
  }

  add(files) {
    if (!files.length) return;
    if (!this.options.check()) return this.#hold(files);
    const jobs = [...files].map((file) => new Job(file, this.options.values()));
    for (const job of jobs) {
      this.#jobs.push(job);
      this.#list(job);
    }
    this.show(jobs[0]);
    // What was pressed may be gone with what was shown before; a keyboard goes on from the text.
    if (!document.activeElement?.checkVisibility()) byId("job").focus({ preventScroll: true });
    if (byId("main").offsetTop > innerHeight / 2) byId("main").scrollIntoView();
    this.#startNext();
  }

  #hold(files) {
    this.#held.push(...files);
    const names = this.#held.map(({ name }) => name).join(", ");
    this.#trouble(`An option is not right. Once it is, this is transcribed: ${names}`);
  }

  /** Files that were held back go, if the options are right now. */
  #release() {
    if (!this.#held.length || !this.options.valid) return;
    this.#trouble("");
    this.add(this.#held.splice(0));
  }

  /** A file once more, with the options as they are now. */
  #again(job) {
    if (!this.options.check()) return;
    job.fields = this.options.values();
    job.start();
  }

  show(job) {
    this.#view?.close();
    this.#view = job ? new JobView(job, this.unauthorized, () => this.#again(job)) : null;
    byId("blank").hidden = Boolean(job);
    byId("job").hidden = !job;
    byId("job").replaceChildren(...(this.#view ? [this.#view.element] : []));
    this.#view?.player.show(job.segments);
    for (const [each, row] of this.#rows) row.button.setAttribute("aria-current", String(each === job));
  }

  #startNext() {
    const room = AT_ONCE - this.#jobs.filter((job) => job.running).length;
    for (const job of this.#jobs.filter((each) => each.state === "waiting").slice(0, Math.max(0, room))) job.start();
  }

  #list(job) {
    const state = el("span", { class: "job-state" });
    const bar = el("progress", { max: 1, "aria-label": `Progress of ${job.file.name}` });
    const button = el("button", { class: "job", on: { click: () => this.show(job) } }, el("span", { class: "job-name" }, job.file.name), state);
    const remove = el("button", { class: "quiet remove", "aria-label": `Remove ${job.file.name}`, title: "Remove", on: { click: () => this.#remove(job) } }, "×");
    const row = el("li", {}, button, remove, bar);
    this.#rows.set(job, { row, button });
    byId("jobs").append(row);
    let before = "";
    const draw = () => {
      row.dataset.state = job.state;
      state.textContent = job.state === "done" ? `Done · ${clock(job.duration ?? 0)}` : job.state === "waiting" ? `Waiting · ${bytes(job.file.size)}` : stateInWords(job);
      bar.hidden = !job.running;
      if (job.progress === null) bar.removeAttribute("value");
      else bar.value = job.progress;
      if (job.state === before) return;
      before = job.state;
      if (job.over) {
        say(`${job.file.name}: ${stateInWords(job)}`);
        this.#startNext();
        if (job.error?.code === "invalid_api_key") this.unauthorized(job.error);
      }
    };
    job.addEventListener("change", draw);
    job.addEventListener("text", draw);
    draw();
  }

  #remove(job) {
    if (job.unsaved && !confirm(`${job.file.name} has changes that were not downloaded. Remove it?`)) return;
    job.cancel();
    const at = this.#jobs.indexOf(job);
    this.#jobs.splice(at, 1);
    this.#rows.get(job).row.remove();
    this.#rows.delete(job);
    if (this.#view?.job === job) this.show(this.#jobs[Math.min(at, this.#jobs.length - 1)] ?? null);
    (this.#rows.get(this.#jobs[at] ?? this.#jobs[at - 1])?.button ?? byId("choose")).focus();
    this.#startNext();
  }

  #adding() {
    const input = byId("files");
    byId("choose").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.add(input.files);
      input.value = "";
    });
    byId("sample").addEventListener("click", async () => {
      try {
        this.add([new File([await api.sample()], "Sense and Sensibility.mp3", { type: "audio/mpeg" })]);
      } catch (error) {
        this.#trouble(error.message);
      }
    });
    const drop = byId("drop");
    let depth = 0;
    const files = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => files(event) && drop.classList.toggle("over", ++depth > 0));
    addEventListener("dragleave", (event) => files(event) && drop.classList.toggle("over", --depth > 0));
    addEventListener("dragover", (event) => files(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      depth = 0;
      drop.classList.remove("over");
      this.add(event.dataTransfer.files);
    });
  }

  #recording() {
    const button = byId("record");
    const why = unavailable();
    if (why) {
      button.disabled = true;
      button.title = why;
      this.#trouble(why, true);
    }
    button.addEventListener("click", () => (this.#recorder ? this.#endRecording(true) : this.#beginRecording()));
    byId("discard").addEventListener("click", () => this.#endRecording(false));
  }

  async #beginRecording() {
    const button = byId("record");
    this.#trouble("");
    button.disabled = true;
    try {
      this.#recorder = await Recorder.begin();
    } catch (error) {
      this.#trouble(error.message);
      return;
    } finally {
      button.disabled = false;
    }
    button.classList.add("on");
    byId("record-label").textContent = "Stop and transcribe";
    byId("choose").hidden = true;
    byId("recording").hidden = false;
    say("Recording");
    this.#recorder.addEventListener("level", ({ detail }) => {
      byId("level").value = detail;
      byId("recording-time").textContent = clock(this.#recorder?.seconds ?? 0);
    });
  }

  async #endRecording(keep) {
    const recorder = this.#recorder;
    this.#recorder = null;
    byId("record").classList.remove("on");
    byId("record-label").textContent = "Record";
    byId("choose").hidden = false;
    byId("recording").hidden = true;
    byId("record").focus();
    if (keep) this.add([await recorder.stop()]);
    else recorder.discard();
  }

  #trouble(words, faint = false) {
    const fault = byId("record-fault");
    fault.hidden = !words;
    fault.textContent = words;
    fault.classList.toggle("faint", faint);
  }

  /** Space plays, unless it presses something, and / searches, unless somebody types. */
  #key(event) {
    if (!this.#view || byId("view-transcribe").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, dialog, [contenteditable]")) return;
    const pressable = event.target.closest("button, summary, a");
    if (event.key === " " && !pressable) this.#view.player.toggle();
    else if (event.key === "/") this.#view.find.focus();
    else return;
    event.preventDefault();
  }
}
