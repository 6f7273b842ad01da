// One file on its way: uploading, queued, transcribing, then done, failed or cancelled.

import * as api from "./api.js";
import { Segment } from "./transcript.js";

export const RUNNING = ["uploading", "queued", "transcribing"];

/**
 * States: `waiting` for other files of this page, `uploading`, `queued` until the first text,
 * `transcribing`, `done`, `failed`, `cancelled`. Says `change` when something but the text changed,
 * `text` when segments were added.
 */
export class Job extends EventTarget {
  #stop = null;

  /**
   * @param {File} file
   * @param fields of the form, by name; `task` is `transcribe` or `translate`.
   */
  constructor(file, fields) {
    super();
    this.file = file;
    this.fields = fields;
    this.state = "waiting";
    this.duration = null; // seconds, as the browser knows them; null until then
    this.unsaved = false;
    this.peaks = null; // a promise of the waveform's, once somebody looks at the file
    this.#clear();
  }

  get running() {
    return RUNNING.includes(this.state);
  }

  get over() {
    return !this.running && this.state !== "waiting";
  }

  /** How far the file's text has come, in seconds of the file. */
  get reached() {
    return this.segments.at(-1)?.end ?? 0;
  }

  /** Share that is done of what is going on; null where nobody knows. */
  get progress() {
    if (this.state === "uploading") return this.uploaded;
    if (this.state === "transcribing" && this.duration) return Math.min(1, this.reached / this.duration);
    return null;
  }

  start() {
    this.#clear();
    this.began = performance.now();
    const { task, ...fields } = this.fields;
    const form = new FormData();
    for (const [name, values] of Object.entries(fields)) for (const value of [values].flat()) form.append(name, value);
    form.append("response_format", "verbose_json");
    form.append("stream", "true");
    if (task === "transcribe") form.append("timestamp_granularities[]", "word");
    form.append("file", this.file, this.file.name);
    this.#enter("uploading");
    this.#stop = api.transcribe(task === "translate" ? "translations" : "transcriptions", form, {
      sent: (loaded, total) => {
        this.uploaded = total ? loaded / total : null;
        this.#enter(loaded === total ? "queued" : "uploading");
      },
      accepted: () => this.state === "uploading" && this.#enter("queued"),
      event: (event) => this.#take(event),
      failed: (error) => {
        this.error = error;
        this.#enter("failed");
      },
      ended: () => {
        if (this.summary) return;
        this.error = new api.ApiError(0, { error: { message: "The answer ended before the text did." } });
        this.#enter("failed");
      },
    });
  }

  cancel() {
    this.#stop?.();
    if (!this.over) this.#enter("cancelled");
  }

  #clear() {
    this.segments = [];
    this.uploaded = 0;
    this.summary = null;
    this.error = null;
    this.took = null;
  }

  #take(event) {
    if (event.type === "transcript.text.segment") {
      this.segments.push(new Segment(event));
      if (this.state !== "transcribing") this.#enter("transcribing");
      this.#announceText();
    } else if (event.type === "transcript.text.done") {
      const { text, usage, ...summary } = event;
      this.summary = summary;
      this.duration = summary.duration || this.duration;
      summary.murmur?.segment_models?.forEach((model, index) => {
        if (this.segments[index]) this.segments[index].model = model;
      });
      this.#enter("done");
    }
  }

  /** Many segments may come at once; those who draw are told once a frame. */
  #announceText() {
    if (this.announced) return;
    this.announced = true;
    setTimeout(() => {
      this.announced = false;
      this.dispatchEvent(new Event("text"));
    }, 16);
  }

  #enter(state) {
    this.state = state;
    if (this.over) this.took = (performance.now() - this.began) / 1000;
    this.dispatchEvent(new Event("change"));
  }
}
