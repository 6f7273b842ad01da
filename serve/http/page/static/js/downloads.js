// Transcripts as files: which formats there are, the menu of them, and saving.

import * as api from "./api.js";
import { el, sentence } from "./dom.js";
import { asLines, asText } from "./transcript.js";

const FORMATS = [
  ["txt", "Text", "text/plain"],
  ["srt", "SubRip subtitles", "text/plain"],
  ["vtt", "WebVTT subtitles", "text/vtt"],
  ["tsv", "Table of segments", "text/tab-separated-values"],
  ["json", "JSON with words", "application/json"],
];

/** A menu that calls `choose(format)`. */
export function downloadMenu(choose) {
  const item = ([format, label]) =>
    el("button", { data: { format }, on: { click: () => { menu.open = false; choose(format); } } }, label, el("span", { class: "faint" }, `.${format}`));
  const menu = el("details", { class: "menu" }, el("summary", { class: "button" }, "Download"), el("div", { class: "menu-items" }, FORMATS.map(item)));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.firstElementChild.focus();
  });
  menu.addEventListener("focusout", (event) => !menu.contains(event.relatedTarget) && event.relatedTarget && (menu.open = false));
  return menu;
}

/** A button that copies `text()`. Browsers let pages copy under HTTPS, or on this machine itself. */
export function copyButton(text) {
  const copy = async () => {
    await navigator.clipboard.writeText(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  const button = el("button", { hidden: !navigator.clipboard, on: { click: copy } }, "Copy");
  return button;
}

/** Save segments in a format. Raises ApiError: subtitles are laid out by the server. */
export async function download(format, name, segments, json) {
  const [, , type] = FORMATS.find(([each]) => each === format);
  let text;
  if (format === "txt") text = asText(segments);
  else if (format === "json") text = JSON.stringify(json(), null, 1);
  else text = await api.render(format, asLines(segments));
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: `${name}.${format}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** What to say when `download` raised. */
export const notLaidOut = (error) => `${sentence(error.message)} The server lays subtitles out. Text and JSON can be downloaded without it.`;
