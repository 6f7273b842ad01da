// A live session over the Realtime API that survives the loss of its connection. No elements, no microphone.
//
// Audio of turns that have no final text yet is kept. When the connection is lost, or the server moves the session
// because it restarts, another one begins with that audio, and in front of it with the end of the last turn: without a
// voice before them, first words are misheard. What is told of that turn once more is left out.

import * as api from "./api.js";

export const RATE = 24_000;
const RECOVERABLE = [1001, 1005, 1006, 1011, 1012, 1013];
const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 5000;
const MAX_KEPT_S = 600; // of audio that no server has heard
const SILENCE_S = 60; // of audio that is kept while nobody speaks
const LEAD_S = 8; // of the last turn, what a new connection hears once more
const BEFORE_S = 0.5; // silence in front of that
const SAME_S = 0.3; // by how much two connections may disagree about where a turn begins and ends
const END = "end"; // names the last commit
const ENDED = "ended"; // names what is asked behind it, whose answer comes behind all text
const TRANSCRIPTION = "conversation.item.input_audio_transcription";

/**
 * Says `change` when its state, `turns` or `lag` are others.
 *
 * `state`: connecting, listening, reconnecting, finishing, ended or failed. `turns` are in order:
 * `{id, start, end, text, words, language, final, error}`, with times in seconds of all audio.
 */
export class LiveSession extends EventTarget {
  state = "connecting";
  error = null;
  turns = [];
  lag = null; // seconds between a word's end and its text, the median of the last words

  #options;
  #socket = null;
  #kept = []; // {at, samples}
  #n = 0; // samples so far
  #clock = 0; // when the first sample was spoken, by performance.now()
  #done = 0; // samples whose text is final
  #begun = false; // whether the server has ever taken the session
  #open = false; // whether this connection has
  #offset = 0; // seconds of all audio before this connection's
  #lead = null;
  #due = 0; // turns that are committed and have no text yet
  #hasEnded = false; // whether all that the last commit gives is committed
  #finishing = false;
  #nLost = 0;
  #timer = 0;
  #lags = [];
  #behind = 0; // what the server says of itself
  #offline = () => this.#socket?.close();
  #online = () => this.#timer && this.#connect();

  /** @param options the session object's `transcription`. */
  constructor(options) {
    super();
    this.#options = options;
    addEventListener("offline", this.#offline);
    addEventListener("online", this.#online);
    this.#connect();
  }

  get over() {
    return this.state === "ended" || this.state === "failed";
  }

  get seconds() {
    return this.#n / RATE;
  }

  /** Seconds that text is behind the audio, if that is much: what the server says, or what the network holds up. */
  get behind() {
    const held = (this.#socket?.bufferedAmount ?? 0) / (RATE * 2 * (4 / 3));
    return this.#behind + (held > 1 ? held : 0);
  }

  /** Take the next audio. @param {Int16Array} samples at 24 kHz. */
  push(samples) {
    if (this.over || this.#finishing) return;
    const block = { at: this.#n, samples };
    this.#n += samples.length;
    this.#clock = performance.now() - (1000 * this.#n) / RATE;
    this.#kept.push(block);
    if (this.#open) {
      this.#append(block);
      if (this.turns.every((turn) => turn.final)) this.#forget(this.#n - SILENCE_S * RATE);
    } else if (this.#n - this.#done > MAX_KEPT_S * RATE) {
      this.#fail(new api.ApiError(0, { error: { message: "The server was away for too long." } }));
    }
  }

  /** There is no more audio: end the turn that goes on, and wait for its text. */
  finish() {
    if (this.over || this.#finishing) return;
    this.#finishing = true;
    if (this.state === "listening") this.#become("finishing");
    if (this.#open) this.#sendEnd();
  }

  /** End it at once. Text that is not final stays as it is. */
  cancel() {
    if (!this.over) this.#close("ended");
  }

  async #connect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    let secret;
    try {
      secret = await api.liveSecret();
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      if (this.over) return;
      if (this.#begun && (error.status === 0 || error.status >= 500)) this.#again();
      else this.#fail(error);
      return;
    }
    if (this.over) return;
    const socket = api.liveSocket(secret);
    let told = null; // the error behind which the server closes
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => {
      if (this.over) return;
      const event = JSON.parse(data);
      if (event.type !== "error" || [END, ENDED].includes(event.error.event_id)) this.#hear(event);
      else if (this.#begun) told = event;
      else this.#fail(new api.ApiError(200, event));
    });
    socket.addEventListener("close", ({ code }) => {
      if (this.over || socket !== this.#socket) return;
      const error = new api.ApiError(told ? 200 : 0, told);
      if (this.#begun && RECOVERABLE.includes(code)) this.#again();
      else this.#fail(error);
    });
  }

  /** The connection is lost: what was told of unfinished turns is void, for it will be told anew. */
  #again() {
    this.#socket = null;
    this.#open = false;
    this.#behind = 0;
    this.turns = this.turns.filter((turn) => turn.final);
    this.#become("reconnecting");
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** this.#nLost++, MAX_PAUSE_MS);
    this.#timer = setTimeout(() => this.#connect(), pause);
  }

  #hear(event) {
    switch (event.type) {
      case "session.created":
        this.#send("session.update", { session: { type: "transcription", audio: { input: { transcription: this.#options } } } });
        return;
      case "session.updated":
        this.#begin();
        return;
      case "error": // of the end: there may have been nothing to commit, and then all is told
        if (event.error.event_id === ENDED) this.#ended();
        return;
      case "murmur.lagging":
        this.#behind = event.lag_ms / 1000;
        this.#change();
        return;
    }
    this.#nLost = 0;
    const again = this.#isHeardAgain(event);
    if (event.type === "input_audio_buffer.speech_started" && !again) {
      this.#turn(event.item_id).start = this.#offset + event.audio_start_ms / 1000;
    } else if (event.type === "input_audio_buffer.committed") this.#due++;
    else if (event.type === `${TRANSCRIPTION}.delta` && !again) this.#tell(event);
    else if (event.type === `${TRANSCRIPTION}.completed`) this.#complete(event, again);
    else if (event.type === `${TRANSCRIPTION}.failed`) this.#giveUp(event, again);
    else return;
    this.#change();
    if (this.#due === 0 && this.#hasEnded) this.#close("ended");
  }

  #begin() {
    this.#begun = this.#open = true;
    this.#offset = (this.#kept[0]?.at ?? this.#n) / RATE;
    this.#lead = this.#offset < this.#done / RATE ? { done: this.#done / RATE, item: null } : null;
    this.#due = 0;
    this.#hasEnded = false;
    for (const block of this.#kept) this.#append(block);
    if (this.#finishing) this.#sendEnd();
    this.#become(this.#finishing ? "finishing" : "listening");
  }

  #ended() {
    this.#hasEnded = true;
    if (this.#due === 0) this.#close("ended");
  }

  #turn(id) {
    let turn = this.turns.find((each) => each.id === id);
    if (!turn) {
      const start = this.#done / RATE;
      turn = { id, start, end: start, text: "", words: [], language: "", final: false, error: null, told: [] };
      this.turns.push(turn);
    }
    return turn;
  }

  /** Whether an event belongs to the turn that this connection hears although its text is final: the first one. */
  #isHeardAgain(event) {
    const lead = this.#lead;
    if (!lead || !event.item_id) return false;
    if (lead.item === null) {
      const begins = event.type === "input_audio_buffer.speech_started";
      const isNew = begins && this.#offset + event.audio_start_ms / 1000 >= lead.done - SAME_S;
      lead.item = isNew ? "" : event.item_id;
    }
    return event.item_id === lead.item;
  }

  #tell(event) {
    const turn = this.#turn(event.item_id);
    turn.text += event.delta;
    turn.told.push([(performance.now() - this.#clock) / 1000, event.delta]);
  }

  #complete(event, again) {
    this.#due--;
    const start = this.#offset + event.audio_start_ms / 1000;
    const end = this.#offset + event.audio_end_ms / 1000;
    let words = event.words.map((word) => ({ ...word, start: this.#offset + word.start, end: this.#offset + word.end }));
    let text = event.transcript;
    if (again) {
      const { done } = this.#lead;
      this.#lead = null;
      words = words.filter((word) => word.end > done + SAME_S);
      text = words.map(({ word }) => word).join(" ");
    }
    const turn = this.#turn(event.item_id);
    this.#lags.push(...wordLags(words, turn.told));
    this.#lags.splice(0, this.#lags.length - 20);
    if (this.#lags.length) this.lag = middle(this.#lags);
    Object.assign(turn, { start, end, text: text.trim(), words, language: event.languages[0]?.code ?? "", final: true });
    if (!turn.text) this.turns = this.turns.filter((each) => each !== turn); // nobody spoke
    this.#done = Math.max(this.#done, Math.min(Math.round(end * RATE), this.#n));
    this.#forget(Math.round(Math.max(start - BEFORE_S, end - LEAD_S, 0) * RATE));
  }

  #giveUp(event, again) {
    this.#due--;
    if (again) this.#lead = null;
    else Object.assign(this.#turn(event.item_id), { final: true, error: new api.ApiError(200, event) });
  }

  /** Drop the audio before a sample. */
  #forget(before) {
    const first = this.#kept.findIndex(({ at, samples }) => at + samples.length > before);
    this.#kept.splice(0, first === -1 ? this.#kept.length : first);
  }

  #append({ samples }) {
    this.#send("input_audio_buffer.append", { audio: base64(samples) });
  }

  #sendEnd() {
    this.#send("input_audio_buffer.commit", { event_id: END });
    this.#send("conversation.item.retrieve", { item_id: END, event_id: ENDED });
  }

  #send(type, fields) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type, ...fields }));
  }

  #fail(error) {
    this.error = error;
    this.#close("failed");
  }

  #close(state) {
    clearTimeout(this.#timer);
    removeEventListener("offline", this.#offline);
    removeEventListener("online", this.#online);
    for (const turn of this.turns) turn.final = true;
    this.turns = this.turns.filter(({ text, error }) => text.trim() || error);
    this.#become(state); // before the socket closes, which is no loss then
    this.#socket?.close(1000);
    this.#kept = [];
  }

  #become(state) {
    this.state = state;
    this.#change();
  }

  #change() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Seconds from the end of each word of a turn to the moment at which its last letter was told.
 *
 * @param words `[{word, end}]` @param told `[[seconds, text]]`, on the same clock.
 */
export function wordLags(words, told) {
  const lags = [];
  const text = told.map(([, part]) => part).join("");
  let [at, seen, next] = [0, 0, 0];
  for (const { word, end } of words) {
    const from = text.indexOf(word, at);
    if (from === -1) continue;
    at = from + word.length;
    while (next < told.length && seen < at) seen += told[next++][1].length;
    lags.push(told[next - 1][0] - end);
  }
  return lags;
}

const middle = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

function base64(samples) {
  // Little-endian, as all processors are on which browsers run.
  return btoa(String.fromCharCode(...new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength)));
}
