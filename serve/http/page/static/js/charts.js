// Small plots of the last hour, a line a tier.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { el } from "./dom.js";

const HEIGHT = 130;
const COLORS = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];

/** A plot of one number of all tiers. */
export class Chart {
  #plot = null;

  /**
   * @param {string} title with the unit.
   * @param {string[]} names of the tiers.
   * @param {(tier, index, history) => number | null} value of a tier's columns at a sample.
   * @param {boolean} whole whether it only has whole values.
   */
  constructor(title, names, value, whole = false) {
    this.whole = whole;
    this.names = names;
    this.value = value;
    this.box = el("div", { class: "plot" });
    this.last = el("span", { class: "plot-last figures" });
    this.element = el("figure", {}, el("figcaption", {}, el("span", {}, title), this.last), this.box);
    this.resized = new ResizeObserver(() => this.#plot?.setSize({ width: this.box.clientWidth, height: HEIGHT }));
    this.resized.observe(this.box);
  }

  /** @param history `{at, tiers: {name: columns}}` */
  draw(history, format) {
    const rows = this.names.map((name) => history.at.map((_, index) => this.value(history.tiers[name], index, history)));
    const data = [history.at, ...rows];
    const now = rows.map((row) => row.at(-1));
    this.last.textContent = now.length === 1 ? format(now[0]) : "";
    this.box.setAttribute("role", "img");
    this.box.setAttribute("aria-label", `Now: ${this.names.map((name, i) => `${name} ${format(now[i])}`).join(", ")}`);
    if (this.#plot) this.#plot.setData(data);
    else if (this.box.clientWidth) this.#plot = this.#make(data, format);
  }

  /** Draw anew, in the colours of the theme. */
  reset() {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #make(data, format) {
    const style = getComputedStyle(this.box);
    const color = (name) => style.getPropertyValue(name).trim();
    const font = `11px ${style.fontFamily}`;
    const axis = { stroke: color("--soft"), font, ticks: { show: false }, grid: { stroke: color("--line"), width: 1 } };
    return new uPlot(
      {
        width: this.box.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 5 } },
        scales: { x: { time: true }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.15 : 1] } },
        axes: [
          { ...axis, grid: { show: false }, size: 22, space: 60, values: (_, ticks) => ticks.map((at) => hour(at, ticks[1] - ticks[0] < 60)) },
          { ...axis, size: 44, space: 34, ...(this.whole ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] } : {}), values: (_, ticks) => ticks.map((tick) => format(tick)) },
        ],
        series: [{}, ...this.names.map((_, index) => ({ stroke: color(COLORS[index % COLORS.length]), width: 1.5, points: { show: false }, spanGaps: false }))],
      },
      data,
      this.box,
    );
  }
}

const hour = (at, withSeconds) => new Date(at * 1000).toTimeString().slice(0, withSeconds ? 8 : 5);

/** The tiers' names in the colours of their lines. */
export function legend(names) {
  return el("ul", { class: "plot-legend" }, names.map((name, index) => el("li", { class: `series-${(index % COLORS.length) + 1}` }, name)));
}
