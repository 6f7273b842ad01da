// The outline of a file's sound, as the browser can read it without filling its memory.

const PER_SECOND = 20;
const MOST = 24_000; // peaks of a whole file
const LONGEST_S = 30 * 60; // compressed files are decoded whole, up to this length
const LARGEST = 300e6;
const BLOCK = 1 << 22;

/**
 * Peaks from 0 to 1.
 *
 * @param {Blob} file
 * @param {number} duration of it, in seconds.
 * @returns Float32Array, or null if the file is too long to be decoded or is not understood here.
 */
export async function peaksOf(file, duration) {
  const wave = await pcmOf(file);
  if (wave) return fromPcm(file, wave);
  if (duration > LONGEST_S || file.size > LARGEST) return null;
  try {
    const context = new OfflineAudioContext(1, 1, 8000);
    const sound = await context.decodeAudioData(await file.arrayBuffer());
    return reduced(sound.getChannelData(0), 8000);
  } catch {
    return null;
  }
}

/** Where the samples of a plain 16-bit WAVE file are; null if it is something else. */
async function pcmOf(file) {
  const head = new DataView(await file.slice(0, 1 << 16).arrayBuffer());
  const tag = (at) => (at + 4 <= head.byteLength ? String.fromCharCode(...[0, 1, 2, 3].map((i) => head.getUint8(at + i))) : "");
  if (tag(0) !== "RIFF" || tag(8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= head.byteLength; ) {
    const size = head.getUint32(at + 4, true);
    if (tag(at) === "fmt " && at + 24 <= head.byteLength) {
      format = { kind: head.getUint16(at + 8, true), channels: head.getUint16(at + 10, true), rate: head.getUint32(at + 12, true), bits: head.getUint16(at + 22, true) };
    } else if (tag(at) === "data") {
      const plain = format && (format.kind === 1 || format.kind === 0xfffe) && format.bits === 16;
      const room = file.size - at - 8; // streams leave the length open
      return plain ? { ...format, from: at + 8, bytes: Math.min(size || room, room) } : null;
    }
    at += 8 + size + (size & 1);
  }
  return null;
}

/** Block by block, so that six hours take no more memory than a minute. */
async function fromPcm(file, { channels, rate, from, bytes }) {
  const frames = Math.floor(bytes / 2 / channels);
  const step = Math.max(1, Math.ceil(Math.max(rate / PER_SECOND, frames / MOST)));
  const peaks = new Float32Array(Math.ceil(frames / step));
  const block = Math.floor(BLOCK / 2 / channels) * 2 * channels;
  const stride = channels * Math.max(1, step >> 8); // some of a long file's samples show its outline
  for (let at = 0; at < bytes; at += block) {
    const samples = new Int16Array(await file.slice(from + at, from + at + Math.min(block, (bytes - at) & ~1)).arrayBuffer());
    const first = at / 2 / channels;
    for (let i = 0; i < samples.length; i += stride) {
      const peak = Math.floor((first + i / channels) / step);
      const level = Math.abs(samples[i]) / 32768;
      if (level > peaks[peak]) peaks[peak] = level;
    }
  }
  return scaled(peaks);
}

function reduced(samples, rate) {
  const step = Math.max(1, Math.ceil(Math.max(rate / PER_SECOND, samples.length / MOST)));
  const peaks = new Float32Array(Math.ceil(samples.length / step));
  for (let i = 0; i < samples.length; i++) {
    const peak = Math.floor(i / step);
    const level = Math.abs(samples[i]);
    if (level > peaks[peak]) peaks[peak] = level;
  }
  return scaled(peaks);
}

/** Quiet files fill the height, too. */
function scaled(peaks) {
  const most = peaks.reduce((a, b) => Math.max(a, b), 0);
  return most > 0 ? peaks.map((peak) => peak / most) : peaks;
}
