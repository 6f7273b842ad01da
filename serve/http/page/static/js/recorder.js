// A recording of the microphone, as a file.

const KINDS = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];

/** Why the microphone cannot be had here; empty if it may be asked for. */
export function unavailable() {
  if (navigator.mediaDevices?.getUserMedia && "MediaRecorder" in window) return "";
  return isSecureContext ? "This browser cannot record." : "Browsers record only on pages with HTTPS, or on this machine itself.";
}

/** Says `level` with a number from 0 to 1 in `detail`. */
export class Recorder extends EventTarget {
  #parts = [];
  #frame = 0;

  /** Ask for the microphone and begin. Raises an Error with words for people. */
  static async begin() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    } catch (error) {
      throw new Error(
        error.name === "NotAllowedError"
          ? "The browser does not let this page use the microphone. Allow it beside the address, then record again."
          : "No microphone was found. Connect one, then record again.",
        { cause: error },
      );
    }
    return new Recorder(stream);
  }

  constructor(stream) {
    super();
    this.stream = stream;
    this.began = performance.now();
    const kind = KINDS.find((each) => MediaRecorder.isTypeSupported(each));
    this.recorder = new MediaRecorder(stream, kind ? { mimeType: kind, audioBitsPerSecond: 64_000 } : {});
    this.recorder.addEventListener("dataavailable", ({ data }) => this.#parts.push(data));
    this.recorder.start(1000);
    this.#measure();
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

  #measure() {
    this.context = new AudioContext();
    const analyser = this.context.createAnalyser();
    analyser.fftSize = 1024;
    this.context.createMediaStreamSource(this.stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const look = () => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
      const decibels = 10 * Math.log10(power + 1e-12); // -60 dB and less is silence
      this.dispatchEvent(new CustomEvent("level", { detail: Math.min(1, Math.max(0, 1 + decibels / 60)) }));
      this.#frame = requestAnimationFrame(look);
    };
    look();
  }

  #release() {
    cancelAnimationFrame(this.#frame);
    this.stream.getTracks().forEach((track) => track.stop());
    this.context.close();
  }
}
