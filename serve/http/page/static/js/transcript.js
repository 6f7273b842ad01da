// A transcript as data: segments with their words, what is edited, what is searched. No elements.

/** A word of a segment: `from` and `to` are its characters in the segment's text. */

export class Segment {
  constructor({ start, end, text, words = [] }) {
    this.start = start;
    this.end = end;
    this.text = text.trim();
    this.model = "";
    this.original = null;
    this.words = located(this.text, words);
  }

  /** The text in lower case, kept for the next search. */
  get lowered() {
    if (this.loweredOf !== this.text) [this.loweredOf, this.inLower] = [this.text, lower(this.text)];
    return this.inLower;
  }

  get edited() {
    return this.original !== null;
  }

  /** Index of the word at a character, or of the nearest one before it; -1 without words. */
  wordAt(character) {
    let found = this.words.length ? 0 : -1;
    for (let i = 0; i < this.words.length && this.words[i].from <= character; i++) found = i;
    return found;
  }

  /** Index of the word that is said at a time; -1 in pauses. */
  wordAtTime(time) {
    return this.words.findIndex((word) => word.start <= time && time < word.end);
  }

  /** Change the text. Words that stay keep their times; what is new shares the time of what it replaces. */
  edit(text) {
    const wanted = text.replace(/\s+/g, " ").trim();
    if (wanted === this.text) return;
    this.original ??= { text: this.text, words: this.words };
    if (wanted === this.original.text) {
      this.restore();
      return;
    }
    this.words = this.words.length ? located(wanted, retimed(this, wanted)) : [];
    this.text = wanted;
  }

  restore() {
    if (this.original) ({ text: this.text, words: this.words } = this.original);
    this.original = null;
  }
}

/** Give each word its place in the text. Words that are not found there are left out. */
function located(text, words) {
  const found = [];
  let at = 0;
  for (const { word, start, end, probability } of words) {
    const from = text.indexOf(word, at);
    if (from === -1) continue;
    at = from + word.length;
    found.push({ word, start, end, probability, from, to: at });
  }
  return found;
}

/** Times for the words of an edited text: equal words at both ends keep theirs. */
function retimed(segment, text) {
  const before = segment.words;
  const after = text.split(" ").filter(Boolean);
  let head = 0;
  while (head < before.length && head < after.length && before[head].word === after[head]) head++;
  let tail = 0;
  const most = Math.min(before.length, after.length) - head;
  while (tail < most && before.at(-1 - tail).word === after.at(-1 - tail)) tail++;
  const replaced = before.slice(head, before.length - tail);
  const fresh = after.slice(head, after.length - tail);
  const start = replaced[0]?.start ?? before[head - 1]?.end ?? segment.start;
  const end = replaced.at(-1)?.end ?? before[head]?.start ?? segment.end;
  const letters = fresh.reduce((sum, word) => sum + word.length, 0);
  let at = start;
  const timed = fresh.map((word) => {
    const begin = at;
    at += ((end - start) * word.length) / letters;
    return { word, start: begin, end: at, probability: 1 };
  });
  return [...before.slice(0, head), ...timed, ...before.slice(before.length - tail)];
}

/** Index of the last of rising segments that begins at or before a time; -1 before the first. */
export function segmentAt(segments, time) {
  let [low, high] = [0, segments.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle].start <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** In lower case, at the same length: a letter that would grow, as İ does, stays. */
function lower(text) {
  const lowered = text.toLowerCase();
  if (lowered.length === text.length) return lowered;
  return [...text].map((letter) => (letter.toLowerCase().length === letter.length ? letter.toLowerCase() : letter)).join("");
}

/** Where a text occurs, regardless of case: `{segment, from, to}` in order. */
export function search(segments, text) {
  const wanted = lower(text.trim());
  const found = [];
  if (!wanted) return found;
  segments.forEach(({ lowered }, segment) => {
    for (let at = lowered.indexOf(wanted); at !== -1; at = lowered.indexOf(wanted, at + wanted.length)) {
      found.push({ segment, from: at, to: at + wanted.length });
    }
  });
  return found;
}

export const asText = (segments) => segments.map((segment) => `${segment.text}\n`).join("");

/** As the API's verbose_json has it, with what was edited. */
export function asJson(job) {
  const { segments, summary } = job;
  const words = segments.flatMap((segment) => segment.words.map(plainWord));
  return {
    task: job.fields.task,
    language: summary?.languages?.[0]?.code ?? "",
    duration: summary?.duration ?? segments.at(-1)?.end ?? 0,
    text: segments.map((segment) => segment.text).join(" "),
    segments: segments.map(({ start, end, text, edited, model }, id) => ({
      id,
      start,
      end,
      text,
      ...(model ? { model } : {}),
      ...(edited ? { edited } : {}),
    })),
    ...(words.length ? { words } : {}),
    ...(summary?.warnings ? { warnings: summary.warnings } : {}),
    ...(summary?.murmur ? { murmur: summary.murmur } : {}),
  };
}

/** What the server needs to lay out subtitles. */
export const asLines = (segments) =>
  segments.map(({ start, end, text, words }) => ({ start, end, text, words: words.map(plainWord) }));

const plainWord = ({ word, start, end, probability }) => ({
  word,
  start: Number(start.toFixed(3)),
  end: Number(end.toFixed(3)),
  probability,
});
