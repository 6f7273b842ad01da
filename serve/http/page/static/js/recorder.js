// A recording of the microphone, as a file.

import { Meter, openMicrophone } from "./microphone.js";

const KINDS = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];

/** Says `level` with a number from 0 to 1 in `detail`. */
export class Recorder extends EventTarget {
  #parts = [];

  /** Ask for the microphone and begin. Raises an Error with words for people. */
  static async begin() {
    return new Recorder(await openMicrophone());
  }

  constructor(stream) {
    super();
    this.stream = stream;
    this.began = performance.now();
    const kind = KINDS.find((each) => MediaRecorder.isTypeSupported(each));
    this.recorder = new MediaRecorder(stream, kind ? { mimeType: kind, audioBitsPerSecond: 64_000 } : {});
    this.recorder.addEventListener("dataavailable", ({ data }) => this.#parts.push(data));
    this.recorder.start(1000);
    this.context = new AudioContext();
    const source = this.context.createMediaStreamSource(stream);
    this.meter = new Meter(this.context, source, (detail) => this.dispatchEvent(new CustomEvent("level", { detail })));
  }

  get seconds() {
    return (performance.now() - this.began) / 1000;
  }

  /** End it; gives the file. */
  async stop() {
    const ended = new Promise((resolve) => this.recorder.addEventListener("stop", resolve, { once: true }));
    this.recorder.stop();
    await ended;
    this.#release();
    const type = this.recorder.mimeType.split(";")[0];
    const at = new Date().toTimeString().slice(0, 5).replace(":", ".");
    return new File(this.#parts, `Recording ${at}.${type.split("/")[1]}`, { type });
  }

  discard() {
    this.recorder.stop();
    this.#release();
  }

  #release() {
    this.meter.stop();
    this.stream.getTracks().forEach((track) => track.stop());
    this.context.close();
  }
}
