// In the browser's audio thread: the microphone's samples at 24 kHz as 16-bit numbers, a tenth of a second at a time.

import { Resampler } from "./resampler.js";

const RATE = 24_000;
const BLOCK = RATE / 10;

class Capture extends AudioWorkletProcessor {
  #resampler = new Resampler(sampleRate, RATE);
  #block = new Int16Array(BLOCK);
  #n = 0;

  constructor() {
    super();
    // Asked for the rest: what has not filled a block, then null.
    this.port.onmessage = () => {
      this.#send();
      this.port.postMessage(null);
    };
  }

  process([[samples]]) {
    if (!samples) return true;
    for (const sample of this.#resampler.push(samples)) {
      this.#block[this.#n++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.#n === BLOCK) this.#send();
    }
    return true;
  }

  #send() {
    if (this.#n) this.port.postMessage(this.#block.slice(0, this.#n));
    this.#n = 0;
  }
}

registerProcessor("capture", Capture);
