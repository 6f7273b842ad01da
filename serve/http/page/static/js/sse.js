// Server-sent events from text that grows.

/** Gives each event once: call `feed` with the whole text so far. */
export class EventReader {
  #done = 0;

  feed(text) {
    const events = [];
    for (let end; (end = text.indexOf("\n\n", this.#done)) !== -1; this.#done = end + 2) {
      for (const line of text.slice(this.#done, end).split("\n")) {
        if (line.startsWith("data: ")) events.push(JSON.parse(line.slice(6)));
      }
    }
    return events;
  }
}
