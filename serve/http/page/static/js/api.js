// The server's routes. Everything is relative to the page, so that it works below any path.

import { breathe } from "./dom.js";
import { EventReader } from "./sse.js";

const KEY = "murmur-api-key";
const EVENTS_AT_ONCE = 50; // between two breaths of the browser

/** An answer that is no success, in the server's words and with what can be done. */
export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    const error = body?.error ?? {};
    super(error.message ?? fallback(status));
    this.status = status;
    this.code = error.code ?? "";
    this.param = error.param ?? "";
    this.retryAfter = Number(retryAfter) || 0;
  }

  /** Whether the file itself is wrong, so that the same would come again. */
  get isOfFile() {
    return [400, 422].includes(this.status) && this.param === "file" && this.code !== "audio_decode_timeout";
  }

  /** What a person can do about it; empty if the message says it all. */
  get advice() {
    if (this.status === 0) return "Check that the server runs and that you are online, then try again.";
    if (this.code === "overloaded" && this.retryAfter) return `The cluster has as much work as it takes. Try again in ${this.retryAfter} s.`;
    return ADVICE[this.code] ?? (this.status >= 500 ? "Try again. If it stays, the server's log says more." : "");
  }
}

const ADVICE = {
  audio_decode_timeout: "The file may be damaged. Save it in another format and add that.",
  audio_too_long: "Cut the file into shorter parts.",
  audio_truncated: "The file was cut off before any sound. Copy or download it again.",
  chunk_failed: "Try again with another model. The server's log says more.",
  deadline_exceeded: "Try again when the cluster has less to do, or cut the file into parts.",
  invalid_api_key: "Enter an API key that this server accepts.",
  invalid_audio: "Choose an audio or video file with at least a tenth of a second of sound.",
  model_not_found: "Choose another model.",
  overloaded: "The cluster has as much work as it takes. Try again in a moment.",
  stopped: "Start it again if that was a mistake.",
  unavailable: "Try again in a moment, or choose another model.",
  upload_timeout: "The connection stalled. Try again.",
  upload_too_large: "Keep only the audio track, or cut the file into parts.",
};

const fallback = (status) => (status === 0 ? "The server cannot be reached." : `The server answered with ${status}.`);

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

const withKey = () => (key.get() ? { authorization: `Bearer ${key.get()}` } : {});

/** Fetch a route; raises ApiError. */
async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...withKey(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0);
  }
  if (!answer.ok) {
    throw new ApiError(answer.status, await answer.json().catch(() => null), answer.headers.get("retry-after"));
  }
  return answer;
}

export const models = async () => (await (await ask("v1/models")).json()).data;
export const schema = async () => (await ask("openapi.json")).json();
export const cluster = async (signal) => (await ask("v1/cluster", { signal })).json();
export const history = async (since, signal) => (await ask(`v1/cluster/history?since=${since}`, { signal })).json();
export const stop = (run) => ask(`v1/cluster/requests/${encodeURIComponent(run)}`, { method: "DELETE" });
export const sample = async () => (await ask("page/sample.mp3")).blob();

/** A key for one connection of a live session: a browser can give a socket no header. */
export const liveSecret = async () => (await (await ask("v1/realtime/client_secrets", { method: "POST" })).json()).value;

export function liveSocket(secret) {
  const url = new URL("v1/realtime?intent=transcription", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return new WebSocket(url, ["realtime", `openai-insecure-api-key.${secret}`]);
}

/** A transcript in a format of subtitles, laid out by the server. */
export async function render(format, segments) {
  const body = JSON.stringify({ format, segments });
  return (await ask("v1/audio/subtitles", { method: "POST", body, headers: { "content-type": "application/json" } })).text();
}

/**
 * Upload a file and follow its transcript. XMLHttpRequest, since fetch tells nothing about uploads.
 *
 * @param {string} route `transcriptions` or `translations`.
 * @param {FormData} form
 * @param calls `sent(loaded, total)`, `accepted()`, `event(event)`, `failed(ApiError)`, `ended()`.
 * @returns a function that stops it; nothing is called after that.
 */
export function transcribe(route, form, calls) {
  const request = new XMLHttpRequest();
  const reader = new EventReader();
  let stopped = false;
  let failed = false;
  const fail = (error) => {
    if (!stopped && !failed) calls.failed(error);
    failed = true;
  };
  let reading = null;
  const read = () => (reading ??= drain().finally(() => (reading = null)));
  const drain = async () => {
    if (request.status !== 200) return;
    let n = 0;
    for (const event of reader.feed(request.responseText)) {
      if (stopped || failed) return;
      if (event.error) fail(new ApiError(200, event));
      else calls.event(event);
      if (++n % EVENTS_AT_ONCE === 0) await breathe();
    }
  };
  request.open("POST", `v1/audio/${route}`);
  for (const [name, value] of Object.entries(withKey())) request.setRequestHeader(name, value);
  request.upload.onprogress = (event) => stopped || calls.sent(event.loaded, event.total);
  request.onreadystatechange = () => {
    if (!stopped && request.readyState === XMLHttpRequest.HEADERS_RECEIVED && request.status === 200) calls.accepted();
  };
  request.onprogress = read;
  request.onload = async () => {
    await reading;
    await read(); // what came meanwhile
    if (request.status !== 200) fail(new ApiError(request.status, parsed(request.responseText), request.getResponseHeader("retry-after")));
    else if (!stopped && !failed) calls.ended();
  };
  request.onerror = () => fail(new ApiError(0));
  request.send(form);
  return () => {
    stopped = true;
    request.abort();
  };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
