// The view Cluster: what the tiers do, cost and wait for, now and in the last hour.

import * as api from "./api.js";
import { Chart, legend } from "./charts.js";
import { clock, dollars, duration, el, figure, say } from "./dom.js";

const EVERY_MS = 2000;
const MINUTE = 60;

export class Cluster {
  #timer = 0;
  #history = null;
  #charts = null;
  #drawnAt = null;
  #abort = null;

  /** @param {Element} element to fill. @param {(error: ApiError) => void} unauthorized asks for a key. */
  constructor(element, unauthorized) {
    this.unauthorized = unauthorized;
    this.element = element;
    this.fault = el("p", { class: "fault", role: "alert", hidden: true });
    this.numbers = el("dl", { class: "numbers" });
    this.tiers = scroller("Tiers");
    this.plots = el("div", { class: "plots" });
    this.legend = el("div");
    this.canaries = scroller("Models that are tried");
    this.requests = scroller("Requests under way");
    this.ended = scroller("Requests that ended");
    this.decisions = el("div");
    this.nodes = scroller("Nodes");
    element.append(
      this.fault,
      this.numbers,
      block("Tiers", this.tiers),
      (this.trials = block("Models that are tried", this.canaries)),
      block("The last hour", this.legend, this.plots),
      block("Requests under way", this.requests),
      el("div", { class: "pair" }, block("Requests that ended in the last hour", this.ended), block("Nodes", this.nodes)),
      block("Decisions of the autoscaler", this.decisions),
      el("details", { class: "more" }, el("summary", {}, "What these words mean"), el("dl", { class: "meanings" }, MEANINGS.map(([word, meaning]) => el("div", {}, el("dt", {}, word), el("dd", {}, meaning))))),
    );
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#charts?.forEach(({ chart }) => chart.reset());
      this.#plot();
    });
    document.addEventListener("visibilitychange", () => this.#running && !document.hidden && this.#next());
  }

  get #running() {
    return this.#abort !== null;
  }

  start() {
    if (this.#running) return;
    this.#abort = new AbortController();
    this.#next();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  /** Ask now, and again after a while, as long as somebody looks. */
  async #next() {
    clearTimeout(this.#timer);
    const abort = this.#abort;
    try {
      const since = this.#history?.at.at(-1) ?? 0;
      const [state, history] = await Promise.all([api.cluster(abort.signal), api.history(since, abort.signal)]);
      if (abort !== this.#abort) return;
      this.#take(history);
      this.#draw(state);
      this.#drawnAt = new Date();
      this.element.classList.remove("old");
      this.fault.hidden = true;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof api.ApiError)) throw error;
      const since = this.#drawnAt ? ` What follows is of ${this.#drawnAt.toLocaleTimeString()}.` : "";
      this.fault.textContent = `${error.message} ${error.advice}${since}`;
      this.fault.hidden = false;
      this.element.classList.add("old");
      if (error.status === 401) {
        this.stop();
        this.unauthorized(error);
        return;
      }
    }
    if (!document.hidden) this.#timer = setTimeout(() => this.#next(), EVERY_MS);
  }

  /** Add new samples to those that are here; what is older than the span goes. */
  #take(history) {
    const before = this.#history;
    if (!before || Object.keys(before.tiers).join() !== Object.keys(history.tiers).join()) {
      this.#history = history;
      return;
    }
    const joined = { ...history, at: [...before.at, ...history.at], tiers: {} };
    const old = joined.at.findIndex((at) => at > joined.at.at(-1) - history.span_s);
    joined.at = joined.at.slice(old);
    for (const [name, columns] of Object.entries(history.tiers)) {
      joined.tiers[name] = Object.fromEntries(Object.entries(columns).map(([column, values]) => [column, [...before.tiers[name][column], ...values].slice(old)]));
    }
    this.#history = joined;
  }

  #draw(state) {
    const { tiers } = state;
    const sum = (key) => tiers.reduce((all, tier) => all + tier[key], 0);
    const history = this.#history;
    const hourly = history.done_s ? (history.usd / history.done_s) * 3600 : NaN;
    definitions(this.numbers, [
      ["Replicas", `${sum("replicas")} of ${tiers.reduce((all, t) => all + (t.target_replicas ?? t.replicas), 0)}`],
      ["Slots in use", `${sum("slots_in_use")} of ${sum("slots")}`],
      ["Audio waiting", duration(sum("queued_audio_s"))],
      ["Speed, last minute", `${figure(this.#speed())}×`],
      ["Requests", figure(state.n_requests)],
      ["Cost now", `${dollars(state.usd_per_hour)}/h`],
      ["Cost per hour of audio, last hour", Number.isFinite(hourly) ? dollars(hourly) : "–"],
    ]);
    grid(this.tiers, ["Tier", "On", "Replicas", "Slots in use", "Audio waiting", "Wait for a slot", "Speed", "$ an hour", "$ an hour of audio", "Why so many replicas"], tiers.map((tier) => [
      el("span", {}, el("strong", {}, tier.name), tier.adapters.length > 0 && el("span", { class: "faint" }, ` with ${tier.adapters.join(", ")}`)),
      tier.denied ? `${tier.accelerator}: none to be had` : tier.accelerator,
      `${tier.replicas} of ${tier.target_replicas ?? tier.replicas} (${tier.min_replicas}–${tier.max_replicas})`,
      share(tier.slots_in_use, tier.slots, `Slots of ${tier.name} in use`),
      duration(tier.queued_audio_s),
      tier.wait_s === null ? "–" : duration(tier.wait_s),
      `${tier.rtfx_measured ? "" : "~"}${figure(tier.rtfx)}×`,
      dollars(tier.usd_per_hour),
      `${tier.rtfx_measured ? "" : "~"}${dollars(tier.usd_per_audio_hour)}`,
      el("span", { class: "why" }, tier.reason),
    ]), "~ is planned, not yet measured.");
    this.#try(state.canaries);
    this.#plot();
    this.#list(state);
    grid(this.ended, ["Outcome", "Requests"], Object.entries(history.outcomes).map(([outcome, n]) => [OUTCOMES[outcome] ?? outcome.replace(/_/g, " "), figure(n)]), "None yet.", true);
    grid(this.nodes, ["Class", "Market", "Nodes", "CPUs", "GPUs"], state.nodes.map((node) => [node.class, node.market || "–", node.nodes, node.cpus, node.gpus]), "Not known yet.", true);
    this.decisions.replaceChildren(
      state.decisions.length
        ? el("ol", { class: "decisions" }, state.decisions.map(({ at, tier, before, replicas, reason }) => el("li", {},
            el("time", { class: "figures faint", dateTime: at }, new Date(at).toTimeString().slice(0, 8)),
            el("span", {}, el("strong", {}, tier), ` ${before} → ${replicas}`), el("span", { class: "faint" }, reason))))
        : el("p", { class: "faint" }, "None since the board began."),
    );
    if (state.autoscaler_faults) this.decisions.append(el("p", { class: "fault" }, `The autoscaler failed ${state.autoscaler_faults} times: its log says why.`));
  }

  /** Seconds of audio per second, of all tiers over the last minute. */
  #speed() {
    const { at, tiers, period_s } = this.#history;
    const first = at.findIndex((time) => time > at.at(-1) - MINUTE);
    if (first === -1) return NaN;
    const done = Object.values(tiers).reduce((all, { done_s }) => all + done_s.slice(first).reduce((a, b) => a + b, 0), 0);
    return done / Math.max(period_s, at.at(-1) - at[first] + period_s);
  }

  #plot() {
    const history = this.#history;
    if (!history?.at.length) return;
    const names = Object.keys(history.tiers);
    if (!this.#charts || this.names !== names.join()) {
      this.names = names.join();
      this.#charts = KINDS.map(([title, value, format, whole]) => ({ chart: new Chart(title, names, value, whole), format }));
      this.plots.replaceChildren(...this.#charts.map(({ chart }) => chart.element));
      this.legend.replaceChildren(legend(names));
    }
    for (const { chart, format } of this.#charts) chart.draw(history, format);
  }

  #try(canaries) {
    this.trials.hidden = !canaries.length;
    grid(this.canaries, ["Model", "In place of", "How", "Requests", "Words that differ", "Not compared"], canaries.map((canary) => [
      el("strong", {}, canary.to),
      canary.of,
      `${canary.shadow ? "in its shadow, " : ""}${figure(canary.share * 100)} % of requests`,
      figure(canary.n_requests),
      canary.n_words ? `${figure((canary.n_changed / canary.n_words) * 100)} % of ${figure(canary.n_words)}` : "–",
      canary.shadow ? `${figure(canary.n_failed + canary.n_skipped)} of ${figure(canary.n_chunks + canary.n_failed + canary.n_skipped)} pieces` : "–",
    ]), "", true);
  }

  #list({ requests, n_requests }) {
    const now = Date.now() / 1000;
    const held = document.activeElement?.dataset?.run;
    grid(this.requests, ["Begun", "Model", "Task", "Priority", "Text is final", ""], requests.map((run) => [
      `${duration(Math.max(0, now - run.began))} ago`,
      run.model === run.tier ? run.model : `${run.model} (${run.tier})`,
      run.task.replace("_", " "),
      run.priority,
      run.audio_s ? share(run.done_s, run.audio_s, "Audio whose text is final", clock) : `${clock(run.done_s)} so far`,
      el("button", { data: { run: run.id }, "aria-label": `Stop the request for ${run.model}`, on: { click: (event) => this.#stop(run, event.target) } }, "Stop"),
    ]), "None.", true);
    if (n_requests > requests.length) this.requests.append(el("p", { class: "faint" }, `and ${n_requests - requests.length} more`));
    if (held) this.requests.querySelector(`[data-run="${held}"]`)?.focus();
  }

  async #stop(run, button) {
    if (!confirm("Stop this request? Its caller gets an error and no more text.")) return;
    button.disabled = true;
    try {
      await api.stop(run.id);
      say("The request stops");
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      this.fault.textContent = error.message;
      this.fault.hidden = false;
    }
  }
}

const MEANINGS = [
  ["Tier", "A model with its replicas, such as base on CPUs."],
  ["With …", "Adapters of a model: variants that are fine-tuned, served by the same replicas and asked for by their names."],
  ["Replica", "A process that holds the model and transcribes. The autoscaler starts and ends replicas."],
  ["Slot", "Room of a replica for one piece of audio, of 30 seconds at most. Pieces in slots are transcribed side by side; others wait."],
  ["Audio waiting", "How much audio has been sent and is in no slot yet."],
  ["Speed", "Seconds of audio that are transcribed in a second: of a tier, by one replica whose slots are full."],
  ["$ an hour of audio", "What an hour of audio costs while the replicas are busy, at the prices of the settings."],
  ["Why so many replicas", "Seconds of audio that come in a second (s/s), how many a replica can do, and what waits."],
  ["Market", "How a node is paid for: on demand, or spot, which is cheaper and may be taken away."],
];

// Kinds of errors whose names say little to whoever has not read the API.
const OUTCOMES = {
  ok: "done",
  cancelled: "given up by the caller",
  chunk_failed: "a piece could not be transcribed",
  deadline: "took too long",
  fault: "fault of the server",
  invalid_value: "wrong option",
  option: "wrong option for the model",
  overloaded: "refused: too busy",
  stopped: "stopped by hand",
  tier_unavailable: "no replica",
};

const perSecond = ({ done_s }, index, { period_s }) => done_s[index] / period_s;
const fill = ({ slots, slots_in_use }, index) => (slots[index] ? slots_in_use[index] / slots[index] : 0);
const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`);
const seconds = (value) => (value === null || value === undefined ? "–" : duration(value));

const KINDS = [
  ["Transcribed, seconds of audio a second", perSecond, figure],
  ["Audio waiting", ({ queued_s }, index) => queued_s[index], seconds],
  ["Wait for a slot", ({ wait_s }, index) => wait_s[index], seconds],
  ["Slots in use", fill, percent],
  ["Replicas", ({ replicas }, index) => replicas[index], figure, true],
  ["Speed of a full replica", ({ rtfx }, index) => rtfx[index], (value) => `${figure(value)}×`],
];

function block(title, ...children) {
  return el("section", { class: "block" }, el("h2", {}, title), children);
}

/** A box that scrolls sideways where it is wider than the window; keys reach it. */
const scroller = (label) => el("div", { class: "scroll", role: "region", "aria-label": label, tabIndex: 0 });

function definitions(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { class: "figures" }, value))));
}

function share(part, whole, label, format = (value) => String(value)) {
  return el("span", { class: "share" }, el("progress", { max: whole || 1, value: Math.min(part, whole), "aria-label": label }), el("span", { class: "figures" }, `${format(part)} of ${format(whole)}`));
}

/** A table; `note` stands below it, or alone if there are no rows and it says so. */
function grid(box, heads, rows, note, onlyIfEmpty = false) {
  if (!rows.length) {
    box.replaceChildren(el("p", { class: "faint" }, note));
    return;
  }
  box.replaceChildren(
    el("table", {}, el("thead", {}, el("tr", {}, heads.map((head) => (head ? el("th", { scope: "col" }, head) : el("td"))))), el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell)))))),
    onlyIfEmpty ? "" : el("p", { class: "faint note" }, note),
  );
}
