// Changes the rate of a stream of samples. Knows nothing of sound devices: the worklet uses it, and tests.

const CROSSINGS = 16; // of zero, on each side of the kernel
const PASSED = 0.92; // of half the lower rate

/** A windowed sinc for every place that an output sample may have between two input samples. */
export class Resampler {
  #history = new Float32Array(0);
  #at = 0; // the next output sample's place in the history, in steps of 1 / #phases.length
  #from;
  #phases;
  #reach;

  /** @param {number} from @param {number} to rates, whole numbers of samples a second. */
  constructor(from, to) {
    const common = divisor(from, to);
    this.#from = from / common;
    const cutoff = Math.min(1, to / from) * PASSED;
    this.#reach = Math.ceil(CROSSINGS / cutoff);
    this.#phases = Array.from({ length: to / common }, (_, phase) => kernel(phase / (to / common), this.#reach, cutoff));
    this.#history = new Float32Array(this.#reach - 1); // silence before the first sample
  }

  /** The samples that are known with these; the newest ones come with the next call. */
  push(samples) {
    const history = new Float32Array(this.#history.length + samples.length);
    history.set(this.#history);
    history.set(samples, this.#history.length);
    const n = this.#phases.length;
    const taps = 2 * this.#reach;
    const known = Math.max(0, Math.ceil(((history.length - taps + 1) * n - this.#at) / this.#from));
    const out = new Float32Array(known);
    for (let i = 0; i < known; i++, this.#at += this.#from) {
      const weights = this.#phases[this.#at % n];
      const first = Math.floor(this.#at / n);
      let sum = 0;
      for (let tap = 0; tap < taps; tap++) sum += weights[tap] * history[first + tap];
      out[i] = sum;
    }
    const used = Math.min(Math.floor(this.#at / n), history.length);
    this.#history = history.slice(used);
    this.#at -= used * n;
    return out;
  }
}

/** Weights of the `2 * reach` samples around a place `share` of a sample behind the middle one. */
function kernel(share, reach, cutoff) {
  const weights = Float32Array.from({ length: 2 * reach }, (_, tap) => {
    const x = tap - (reach - 1) - share;
    const turn = Math.PI * cutoff * x;
    const sinc = x === 0 ? 1 : Math.sin(turn) / turn;
    const t = Math.min(1, Math.abs(x) / reach);
    return sinc * (0.42 + 0.5 * Math.cos(Math.PI * t) + 0.08 * Math.cos(2 * Math.PI * t)); // Blackman's window
  });
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

const divisor = (a, b) => (b ? divisor(b, a % b) : a);
