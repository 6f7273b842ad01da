// Server-sent events from text that grows.

/** Gives each event once: call `feed` with the whole text so far. */
export class EventReader {
  #done = 0;

  *feed(text) {
    for (let end; (end = text.indexOf("\n\n", this.#done)) !== -1; ) {
      const lines = text.slice(this.#done, end).split("\n");
      this.#done = end + 2;
      for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}
