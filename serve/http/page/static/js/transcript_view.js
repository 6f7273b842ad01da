// A transcript on the page: lines that play, follow the sound, are searched and edited.
//
// A line has one text node however many words it has; what is tinted, said or found is painted over
// it (CSS Custom Highlight API), so that a file of six hours stays light.

import { breathe, clock, el, say, spokenClock } from "./dom.js";
import { search, segmentAt } from "./transcript.js";

// Probabilities of words. Those that Whisper mishears are often below the first.
const UNSURE = 0.7;
const DOUBTFUL = 0.4;
const AT_ONCE = 150; // lines added between two breaths
const BLOCK = 40; // lines that the browser draws, or leaves out, together
const NEAR_PX = 800; // blocks so far out of view are painted
const HANDS_OFF_S = 4; // after a person has scrolled

const paints = Object.fromEntries(["unsure", "doubtful", "found", "found-now", "spoken"].map((name) => [name, "Highlight" in window ? new Highlight() : null]));
Object.values(paints).forEach((paint, rank) => paint && (paint.priority = rank));
for (const [name, paint] of Object.entries(paints)) if (paint) CSS.highlights.set(name, paint);

/** Says `edit` when a person has changed a line. */
export class TranscriptView extends EventTarget {
  #lines = [];
  #painted = new Map();
  #near = new Set();
  #found = [];
  #foundIn = new Map();
  #at = -1;
  #focused = 0;
  #now = -1;
  #word = null;
  #scrolled = -Infinity;
  #adding = null;
  #closed = false;

  /** @param {Job} job @param {Player} player */
  constructor(job, player) {
    super();
    this.job = job;
    this.player = player;
    this.element = el("div", { class: "lines", role: "list", "aria-label": "Transcript", on: { click: (e) => this.#click(e), dblclick: (e) => this.#twice(e), keydown: (e) => this.#key(e), focusin: (e) => this.#focus(e) } });
    this.#forget();
    // The browser goes through all that is painted whenever any of it changes, so only what is near is.
    this.inView = new IntersectionObserver((entries) => this.#passed(entries), { rootMargin: `${NEAR_PX}px` });
    this.wheel = () => (this.#scrolled = performance.now());
    for (const event of ["wheel", "touchmove"]) addEventListener(event, this.wheel, { passive: true });
    this.onTime = () => this.#follow();
    player.addEventListener("time", this.onTime);
    this.update();
  }

  close() {
    this.#closed = true;
    this.inView.disconnect();
    for (const event of ["wheel", "touchmove"]) removeEventListener(event, this.wheel);
    this.player.removeEventListener("time", this.onTime);
    this.#forget();
  }

  /** Show what has been added. */
  update() {
    this.#adding ??= this.#add().finally(() => (this.#adding = null));
    return this.#adding;
  }

  async #add() {
    while (this.#lines.length < this.job.segments.length && !this.#closed) {
      const atBottom = innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
      const from = this.#lines.length;
      this.element.classList.toggle("long", this.job.reached >= 3600);
      for (const segment of this.job.segments.slice(from, from + AT_ONCE)) this.#append(this.#line(segment, this.#lines.length));
      if (atBottom && from && this.job.running && !this.player.playing) scrollTo({ top: document.documentElement.scrollHeight });
      await breathe();
    }
  }

  #append(line) {
    if (line.index % BLOCK === 0) {
      const block = el("div", { class: "block-of-lines", role: "presentation" });
      block.first = line.index;
      this.element.append(block);
      this.inView.observe(block);
    }
    this.element.lastElementChild.append(line);
    this.#lines.push(line);
    if (this.#near.has(line.index - (line.index % BLOCK))) this.#paint(line.index);
  }

  /** Search; gives the number of places. */
  find(text) {
    this.#found = search(this.job.segments, text);
    this.#at = -1;
    paints["found-now"]?.clear();
    this.#foundIn = Map.groupBy(this.#found, (place) => place.segment);
    for (const first of this.#near) this.#linesOf(first).forEach((line) => this.#paint(line.index));
    return this.#found.length;
  }

  /** Go to the next place that was found, or the one before; gives its number from 1. */
  go(step) {
    const n = this.#found.length;
    if (!n) return 0;
    this.#at = this.#at === -1 && step < 0 ? n - 1 : (this.#at + step + n) % n;
    const { segment, from, to } = this.#found[this.#at];
    paints["found-now"]?.clear();
    const range = this.#range(segment, from, to);
    if (range) paints["found-now"]?.add(range);
    this.#lines[segment]?.scrollIntoView({ block: "center" });
    this.#rove(segment);
    say(`${this.#at + 1} of ${n}: ${this.job.segments[segment].text}`);
    return this.#at + 1;
  }

  #line(segment, index) {
    const time = el("button", { class: "time figures", tabIndex: index === this.#focused ? 0 : -1, "aria-label": `Play from ${spokenClock(segment.start)}` }, clock(segment.start));
    const text = el("p", { class: "text" }, segment.text);
    const edit = el("button", { class: "edit", tabIndex: -1, "aria-label": `Edit the text at ${spokenClock(segment.start)}`, title: "Edit (E)" });
    const undo = el("button", { class: "undo", tabIndex: -1, hidden: !segment.edited, title: "Back to what was recognised" }, "undo");
    const line = el("div", { class: "line", role: "listitem" }, time, text, el("span", { class: "line-tools" }, undo, edit));
    line.classList.toggle("edited", segment.edited);
    line.index = index;
    return line;
  }

  #text(index) {
    return this.#lines[index]?.querySelector(".text");
  }

  #range(index, from, to) {
    const node = this.#text(index)?.firstChild;
    if (node?.nodeType !== Node.TEXT_NODE || to > node.length) return null;
    return new StaticRange({ startContainer: node, startOffset: from, endContainer: node, endOffset: to });
  }

  #passed(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.#near.add(target.first);
      else this.#near.delete(target.first);
      for (const { index } of this.#linesOf(target.first)) isIntersecting ? this.#paint(index) : this.#unpaint(index);
    }
  }

  #linesOf(first) {
    return this.#lines.slice(first, first + BLOCK);
  }

  /** Tint what is unsure in a line, and what is found. */
  #paint(index) {
    this.#unpaint(index);
    const unsure = this.job.segments[index].words.filter(({ probability }) => probability < UNSURE);
    const wanted = [
      ...unsure.map((word) => [word.probability < DOUBTFUL ? paints.doubtful : paints.unsure, word]),
      ...(this.#foundIn.get(index) ?? []).map((place) => [paints.found, place]),
    ];
    const painted = wanted.map(([paint, { from, to }]) => [paint, this.#range(index, from, to)]).filter(([, range]) => range);
    for (const [paint, range] of painted) paint?.add(range);
    if (painted.length) this.#painted.set(index, painted);
  }

  #unpaint(index) {
    for (const [paint, range] of this.#painted.get(index) ?? []) paint?.delete(range);
    this.#painted.delete(index);
  }

  #forget() {
    for (const paint of Object.values(paints)) paint?.clear();
  }

  // Playing.

  #follow() {
    const time = this.player.time;
    const index = segmentAt(this.job.segments, time);
    if (index !== this.#now) {
      this.#lines[this.#now]?.classList.remove("now");
      this.#lines[index]?.classList.add("now");
      this.#now = index;
      if (this.player.playing) this.#keepInView(index);
    }
    const segment = this.job.segments[index];
    const number = segment ? segment.wordAtTime(time) : -1;
    const word = number === -1 ? null : segment.words[number];
    if (word === this.#word) return;
    this.#word = word;
    paints.spoken?.clear();
    const range = word && this.#range(index, word.from, word.to);
    if (range) paints.spoken?.add(range);
  }

  #keepInView(index) {
    if (performance.now() - this.#scrolled < HANDS_OFF_S * 1000 || this.element.querySelector("[contenteditable]")) return;
    const box = this.#lines[index]?.getBoundingClientRect();
    if (box && (box.top < 160 || box.bottom > innerHeight - 60)) this.#lines[index].scrollIntoView({ block: "center", behavior: motion() });
  }

  #playWord(index, number) {
    const segment = this.job.segments[index];
    this.player.playFrom(number >= 0 ? segment.words[number].start : segment.start);
  }

  #click(event) {
    const line = event.target.closest(".line");
    if (!line || line.querySelector("[contenteditable]")) return;
    if (event.target.closest(".edit")) this.#edit(line.index);
    else if (event.target.closest(".undo")) this.#undo(line.index);
    else if (event.target.closest(".time")) this.#playWord(line.index, 0);
    else if (event.target.closest(".text") && getSelection().isCollapsed) {
      this.#rove(line.index);
      this.#playWord(line.index, this.job.segments[line.index].wordAt(characterAt(event)));
    }
  }

  #twice(event) {
    const line = event.target.closest(".line");
    if (!line || !event.target.closest(".text") || event.target.isContentEditable) return;
    this.player.pause();
    this.#edit(line.index, characterAt(event));
  }

  // Keys: one stop for Tab; arrows go from line to line and from word to word.

  #key(event) {
    if (!event.target.classList.contains("time") || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = event.target.closest(".line").index;
    const last = this.#lines.length - 1;
    const lines = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: last };
    if (event.key in lines) this.#rove(Math.max(0, Math.min(last, lines[event.key])), true);
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") this.#step(index, event.key === "ArrowRight" ? 1 : -1);
    else if (event.key.toLowerCase() === "e") this.#edit(index);
    else return;
    event.preventDefault();
  }

  #step(index, step) {
    const { words } = this.job.segments[index];
    if (!words.length) return;
    const time = this.player.time;
    const here = this.job.segments[index].start <= time + 0.01 && time < words.at(-1).end ? words.findLastIndex((word) => word.start <= time + 0.01) : step > 0 ? -1 : words.length;
    const word = words[Math.max(0, Math.min(words.length - 1, here + step))];
    this.player.seek(word.start);
    say(word.probability < UNSURE ? `${word.word}, unsure` : word.word);
  }

  #rove(index, focus = false) {
    const before = this.#lines[this.#focused]?.querySelector(".time");
    if (before) before.tabIndex = -1;
    this.#focused = index;
    const time = this.#lines[index]?.querySelector(".time");
    if (!time) return;
    time.tabIndex = 0;
    if (focus) time.focus();
  }

  #focus(event) {
    const line = event.target.closest(".line");
    if (line && event.target.classList.contains("time") && line.index !== this.#focused) this.#rove(line.index);
  }

  // Editing.

  #edit(index, character = null) {
    const text = this.#text(index);
    const segment = this.job.segments[index];
    text.contentEditable = "plaintext-only";
    text.setAttribute("role", "textbox");
    text.setAttribute("aria-label", `Text at ${spokenClock(segment.start)}. Enter keeps it, Escape leaves it as it was.`);
    text.spellcheck = true;
    text.focus();
    const selection = getSelection();
    if (character === null) {
      selection.selectAllChildren(text);
      selection.collapseToEnd();
    } else selection.collapse(text.firstChild, Math.min(character, text.firstChild.length));
    const end = (keep) => {
      text.removeEventListener("keydown", keys);
      text.removeEventListener("blur", leave);
      for (const name of ["contenteditable", "role", "aria-label"]) text.removeAttribute(name);
      if (keep && text.textContent.trim()) segment.edit(text.textContent);
      this.#redraw(index);
    };
    const leave = () => end(true);
    const keys = (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      end(event.key === "Enter");
      this.#rove(index, true);
    };
    text.addEventListener("keydown", keys);
    text.addEventListener("blur", leave);
  }

  #undo(index) {
    this.job.segments[index].restore();
    this.#redraw(index);
    this.#rove(index, true);
  }

  #redraw(index) {
    const segment = this.job.segments[index];
    const line = this.#lines[index];
    this.#text(index).textContent = segment.text;
    line.classList.toggle("edited", segment.edited);
    line.querySelector(".undo").hidden = !segment.edited;
    this.#word = null;
    this.#paint(index);
    this.dispatchEvent(new Event("edit"));
  }
}

/** The character of a text node that was clicked. */
function characterAt(event) {
  const place = document.caretPositionFromPoint?.(event.clientX, event.clientY);
  if (place) return place.offset;
  return document.caretRangeFromPoint?.(event.clientX, event.clientY)?.startOffset ?? 0;
}

const motion = () => (matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth");
