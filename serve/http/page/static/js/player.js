// Sound of one file: play, seek, speed, its waveform and the segments behind it.

import WaveSurfer from "../vendor/wavesurfer/wavesurfer.esm.js";
import { clock, el } from "./dom.js";
import { peaksOf } from "./peaks.js";

const SPEEDS = [0.75, 1, 1.25, 1.5, 2];
const DARK = matchMedia("(prefers-color-scheme: dark)");
const NONCE = document.querySelector("link[rel=stylesheet]").nonce;

/** Says `time` while it plays and after each seek. */
export class Player extends EventTarget {
  #wave = null;
  #segments = [];
  #frame = 0;

  /** @param {Job} job whose `duration` is set as soon as it is known. */
  constructor(job) {
    super();
    this.job = job;
    this.url = URL.createObjectURL(job.file);
    this.audio = new Audio();
    this.audio.preload = "metadata";
    this.button = el("button", { class: "play", "aria-label": "Play", disabled: true, on: { click: () => this.toggle() } });
    this.now = el("span", { class: "figures now" }, "0:00");
    this.whole = el("span", { class: "figures faint" }, "");
    this.lane = el("canvas", { class: "lane", "aria-hidden": "true" });
    this.box = el("div", { class: "wave" });
    this.note = el("p", { class: "faint note", hidden: true });
    this.slider = el("input", { type: "range", class: "seek", min: 0, max: 0, step: 0.05, value: 0, "aria-label": "Position", on: { input: () => this.seek(Number(this.slider.value)) } });
    const speed = el("select", { class: "speed", "aria-label": "Speed", on: { change: () => (this.audio.playbackRate = Number(speed.value)) } },
      SPEEDS.map((value) => el("option", { value, selected: value === 1 }, `${value}×`)));
    this.element = el("div", { class: "player" },
      this.button,
      el("div", { class: "wave-box" }, this.lane, this.box, this.slider),
      el("div", { class: "player-foot" }, el("span", {}, this.now, this.whole), speed),
      this.note);
    this.#listen();
    this.audio.src = this.url;
    this.recolor = () => {
      this.#wave?.setOptions(this.#colors());
      this.#drawLane();
    };
    DARK.addEventListener("change", this.recolor);
    this.resized = new ResizeObserver(() => this.#drawLane());
    this.resized.observe(this.box);
  }

  get time() {
    return this.audio.currentTime;
  }

  /** Whether the browser understands the file; false until it knows. */
  get playable() {
    return Boolean(this.length);
  }

  get playing() {
    return !this.audio.paused;
  }

  /** Hear the file from a time on. */
  async playFrom(time) {
    this.seek(time);
    await this.#play();
  }

  seek(time) {
    this.audio.currentTime = Math.max(0, time);
    this.#tell();
  }

  toggle() {
    if (this.playing) this.audio.pause();
    else this.#play();
  }

  pause() {
    this.audio.pause();
  }

  /** Show these segments behind the waveform. */
  show(segments) {
    this.#segments = segments;
    this.#drawLane();
  }

  close() {
    this.closed = true;
    DARK.removeEventListener("change", this.recolor);
    cancelAnimationFrame(this.#frame);
    this.resized.disconnect();
    this.audio.pause();
    this.#wave?.destroy();
    this.audio.removeAttribute("src");
    this.audio.load();
    URL.revokeObjectURL(this.url);
  }

  async #play() {
    try {
      await this.audio.play();
    } catch (error) {
      if (error.name !== "AbortError") this.#cannot();
    }
  }

  #listen() {
    const { audio } = this;
    audio.addEventListener("loadedmetadata", () => this.#known(), { once: true });
    audio.addEventListener("error", () => this.#cannot());
    for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, () => this.#switched());
    for (const event of ["timeupdate", "seeked"]) audio.addEventListener(event, () => this.#tell());
  }

  /** A recording says its length only once somebody has gone to its end. */
  async #known() {
    const { audio, job } = this;
    if (audio.duration === Infinity) {
      audio.currentTime = 1e7;
      await new Promise((resolve) => audio.addEventListener("durationchange", () => audio.duration !== Infinity && resolve()));
      audio.currentTime = 0;
    }
    job.duration ??= audio.duration;
    this.length = audio.duration;
    this.slider.max = this.length;
    this.whole.textContent = ` / ${clock(this.length)}`;
    this.button.disabled = false;
    this.#drawLane();
    job.dispatchEvent(new Event("change"));
    job.peaks ??= peaksOf(job.file, this.length);
    this.#draw(await job.peaks);
  }

  #draw(peaks) {
    if (this.closed) return;
    if (!peaks) return; // a plain line stays
    this.#wave = WaveSurfer.create({
      container: this.box,
      media: this.audio,
      peaks: [peaks],
      duration: this.length,
      height: this.box.clientHeight,
      barWidth: 2,
      barGap: 1,
      barRadius: 1,
      cursorWidth: 1,
      ...this.#colors(),
      interact: false,
      hideScrollbar: true,
      cspNonce: NONCE,
    });
    this.box.classList.add("drawn");
  }

  #colors() {
    const style = getComputedStyle(this.element);
    const color = (name) => style.getPropertyValue(name).trim();
    return { waveColor: color("--wave"), progressColor: color("--accent"), cursorColor: color("--ink") };
  }

  #cannot() {
    if (!this.audio.src || this.length) return;
    this.note.textContent = "This browser cannot play this kind of file. Its text comes all the same.";
    this.note.hidden = false;
  }

  #switched() {
    const playing = this.playing && !this.audio.ended;
    this.button.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.button.classList.toggle("playing", playing);
    cancelAnimationFrame(this.#frame);
    if (playing) this.#follow();
  }

  /** Words are shorter than the time between the browser's own events. */
  #follow() {
    this.#tell();
    this.#frame = requestAnimationFrame(() => this.#follow());
  }

  #tell() {
    this.now.textContent = clock(this.time);
    if (Math.abs(this.time - this.slider.value) >= 0.1) {
      this.slider.value = this.time;
      this.slider.setAttribute("aria-valuetext", clock(this.time));
      if (!this.#wave) this.box.style.setProperty("--at", this.length ? this.time / this.length : 0);
    }
    this.dispatchEvent(new Event("time"));
  }

  #drawLane() {
    const { lane } = this;
    const width = this.box.clientWidth;
    const length = this.length || this.#segments.at(-1)?.end;
    if (!width || !length) return;
    const height = this.box.clientHeight;
    const scale = devicePixelRatio;
    [lane.width, lane.height] = [width * scale, height * scale];
    const context = lane.getContext("2d");
    context.scale(scale, scale);
    context.fillStyle = getComputedStyle(this.element).getPropertyValue("--lane");
    context.beginPath(); // one shape: where segments are narrower than a pixel, none is darker
    for (const { start, end } of this.#segments) {
      const from = (start / length) * width;
      context.rect(from, 0, Math.max(1, (end / length) * width - from - 1), height);
    }
    context.fill();
  }
}
