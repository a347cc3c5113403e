// The best similarity of every left item as a histogram, with a threshold to drag.
import { element, plainText } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;
const HEIGHT = 120;
const MAX_BARS = 100;

/** The histogram, the slider and the figures that follow from it. */
export function scoresPanel(scores, hasEvidence) {
  const model = new ScoresModel(scores);
  const chart = drawChart(model);
  const slider = element("input", {
    type: "range",
    id: "threshold",
    min: model.low.toFixed(3),
    max: "1",
    step: "0.001",
    "aria-describedby": "threshold-figures",
  });
  slider.value = String(clamp(scores.threshold, model.low, 1));
  const figures = element("dl", { class: "figures", id: "threshold-figures" });
  const update = () => {
    const threshold = Number(slider.value);
    const rows = model.figures(threshold);
    slider.setAttribute("aria-valuetext", `${threshold.toFixed(3)}: ${rows[1][1]}`);
    figures.replaceChildren(
      ...rows.map(([name, value]) => element("div", {}, element("dt", { text: name }), element("dd", { text: value }))),
    );
    chart.choose(threshold);
  };
  slider.addEventListener("input", update);
  chart.onDrag((threshold) => {
    slider.value = String(threshold);
    update();
  });
  update();
  const scale = element("div", { class: "scale", "aria-hidden": "true" });
  for (let step = 0; step <= 4; step++) scale.append(element("span", { text: (model.low + ((1 - model.low) * step) / 4).toFixed(2) }));
  const label = element("label", { for: "threshold", text: "Threshold, on the best similarity of all left items" });
  const histogram = element("div", { class: "histogram" }, chart.svg, slider, scale);
  const notes = element("p", { class: "muted" });
  notes.append(`The dashed line is the present threshold, ${scores.threshold.toFixed(3)}. `);
  if (scores.sampled < scores.items) notes.append(`Counts are estimated from ${number(scores.sampled)} of ${number(scores.items)} left items. `);
  if (hasEvidence) notes.append("Pairs with evidence match below the threshold, too; they are counted by similarity alone here. ");
  const measured = model.isMeasured ? plainText(scores.measured_by) : "not measured yet; imgsim recommend-threshold measures them";
  notes.append(`False matches: ${measured}. Dragging changes nothing; set the value in YAML.`);
  return element("div", {}, label, histogram, figures, notes);
}

/** Counts by threshold. */
class ScoresModel {
  constructor(scores) {
    this.scores = scores;
    this.factor = scores.sampled ? scores.items / scores.sampled : 0;
    // Items whose best similarity reaches the lower edge of each bin.
    this.reaching = new Array(scores.counts.length + 1).fill(0);
    for (let bin = scores.counts.length - 1; bin >= 0; bin--) this.reaching[bin] = this.reaching[bin + 1] + scores.counts[bin];
    const lowest = Math.max(0, scores.counts.findIndex((count) => count > 0));
    const low = scores.first + lowest * scores.width;
    this.low = Math.floor(Math.min(low, scores.threshold, 0.9) * 20) / 20;
    this.low = Math.max(this.low, scores.first);
  }

  /** Left items that have a match at a threshold. */
  matched(threshold) {
    const bin = Math.ceil((threshold - this.scores.first) / this.scores.width - 1e-6);
    return Math.round(this.reaching[clamp(bin, 0, this.scores.counts.length - 1)] * this.factor);
  }

  /** What a threshold means, as names and values. */
  figures(threshold) {
    const [matched, now] = [this.matched(threshold), this.matched(this.scores.threshold)];
    const share = this.scores.items ? (100 * matched) / this.scores.items : 0;
    const change = matched - now;
    const sign = change > 0 ? "+" : change < 0 ? "\u2212" : "\u00b1";
    return [
      ["Threshold", threshold.toFixed(3)],
      ["Left items with a match", `${number(matched)} of ${number(this.scores.items)} (${share.toFixed(1)} %)`],
      ["Change", `${sign}${number(Math.abs(change))}`],
      ["Estimated false matches", this.falseMatches(threshold)],
    ];
  }

  get isMeasured() {
    return this.scores.false_match_rates.length > 0;
  }

  falseMatches(threshold) {
    const rates = this.scores.false_match_rates;
    if (!this.isMeasured) return "not measured";
    const reached = rates.filter((each) => each.threshold <= threshold + 1e-9);
    const expected = (rate) => Math.min(rate * this.scores.items, this.matched(threshold));
    if (!reached.length) return `more than ${approximately(expected(rates[0].rate))}`;
    return `at most ${approximately(expected(reached[reached.length - 1].rate))}`;
  }

  /** Counts of wider bins from `low` to 1, for the bars. */
  bars() {
    const { first, width, counts } = this.scores;
    const from = Math.round((this.low - first) / width);
    const perBar = Math.max(1, Math.ceil((counts.length - from) / MAX_BARS));
    const bars = [];
    for (let bin = from; bin < counts.length; bin += perBar) {
      const count = counts.slice(bin, bin + perBar).reduce((sum, each) => sum + each, 0);
      bars.push({ low: first + bin * width, high: Math.min(1, first + (bin + perBar) * width), count });
    }
    return bars;
  }
}

function drawChart(model) {
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const x = (similarity) => ((similarity - model.low) / (1 - model.low)) * WIDTH;
  const bars = model.bars();
  // The square root keeps rare similarities visible beside very common ones.
  const most = Math.sqrt(Math.max(1, ...bars.map((bar) => bar.count)));
  const rects = bars.map((bar) => {
    const height = (Math.sqrt(bar.count) / most) * (HEIGHT - 6);
    const rect = shape("rect", { class: "bar", x: x(bar.low), y: HEIGHT - height, width: Math.max(0.5, x(bar.high) - x(bar.low) - 1), height });
    svg.append(rect);
    return [bar, rect];
  });
  const now = x(model.scores.threshold);
  svg.append(shape("line", { class: "now", x1: now, x2: now, y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke" }));
  const chosen = shape("line", { class: "chosen", y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke" });
  svg.append(chosen);
  return {
    svg,
    choose(threshold) {
      // It would hide the dashed line; the slider has steps of 0.001.
      const isPresent = Math.abs(threshold - model.scores.threshold) < 0.0006;
      chosen.setAttribute("visibility", isPresent ? "hidden" : "visible");
      chosen.setAttribute("x1", x(threshold));
      chosen.setAttribute("x2", x(threshold));
      for (const [bar, rect] of rects) rect.setAttribute("class", bar.low >= threshold - 1e-9 ? "bar above" : "bar");
    },
    onDrag(listener) {
      const drag = (event) => {
        if (!(event.buttons & 1)) return;
        const box = svg.getBoundingClientRect();
        const share = clamp((event.clientX - box.left) / box.width, 0, 1);
        listener(Math.round((model.low + share * (1 - model.low)) * 1000) / 1000);
      };
      svg.addEventListener("pointerdown", (event) => {
        svg.setPointerCapture(event.pointerId);
        drag(event);
      });
      svg.addEventListener("pointermove", drag);
    },
  };
}

function shape(name, attributes) {
  const created = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  return created;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

function number(value) {
  return value.toLocaleString("en");
}

function approximately(value) {
  if (value < 0.1) return "0.1";
  return value < 10 ? value.toFixed(1) : number(Math.round(value));
}
