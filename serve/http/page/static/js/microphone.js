// The microphone: asking for it, how loud it is, and its samples as they come.

/** Why the microphone cannot be had here; empty if it may be asked for. */
export function unavailable() {
  if (navigator.mediaDevices?.getUserMedia && "MediaRecorder" in window && "AudioWorkletNode" in window) return "";
  return isSecureContext ? "This browser cannot record." : "Browsers record only on pages with HTTPS, or on this machine itself.";
}

/** Ask for the microphone. Raises an Error with words for people. */
export async function openMicrophone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  } catch (error) {
    throw new Error(
      error.name === "NotAllowedError"
        ? "The browser does not let this page use the microphone. Allow it beside the address, then try again."
        : "No microphone was found. Connect one, then try again.",
      { cause: error },
    );
  }
}

/** Tells how loud a source is: `told(level)`, from 0 to 1, each time the browser draws. */
export class Meter {
  #frame = 0;

  constructor(context, source, told) {
    const analyser = context.createAnalyser();
    analyser.fftSize = 1024;
    source.connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const look = () => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
      const decibels = 10 * Math.log10(power + 1e-12); // -60 dB and less is silence
      told(Math.min(1, Math.max(0, 1 + decibels / 60)));
      this.#frame = requestAnimationFrame(look);
    };
    look();
  }

  stop() {
    cancelAnimationFrame(this.#frame);
  }
}

/**
 * The microphone's samples: `samples` with an Int16Array at 24 kHz in `detail`, `level` with a number from 0 to 1, and
 * `gone` when the microphone is taken away.
 */
export class Capture extends EventTarget {
  /** Ask for the microphone and begin. Raises an Error with words for people. */
  static async begin() {
    const stream = await openMicrophone();
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(new URL("./capture_worklet.js", import.meta.url));
      await context.resume();
    } catch (error) {
      stream.getTracks().forEach((track) => track.stop());
      context.close();
      throw new Error("This browser cannot read the microphone. Reload the page, or try another browser.", { cause: error });
    }
    return new Capture(stream, context);
  }

  constructor(stream, context) {
    super();
    this.stream = stream;
    this.context = context;
    const source = context.createMediaStreamSource(stream);
    this.node = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
    this.ended = new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => {
        if (data === null) resolve();
        else this.dispatchEvent(new CustomEvent("samples", { detail: data }));
      };
    });
    // Its output is silence; without a listener, some browsers do not run it.
    source.connect(this.node).connect(context.destination);
    this.meter = new Meter(context, source, (detail) => this.dispatchEvent(new CustomEvent("level", { detail })));
    for (const track of stream.getTracks()) track.addEventListener("ended", () => this.dispatchEvent(new Event("gone")));
  }

  /** End it, once all samples are told. */
  async stop() {
    this.meter.stop();
    this.stream.getTracks().forEach((track) => track.stop());
    this.node.port.postMessage("rest");
    await this.ended;
    this.context.close();
  }
}
