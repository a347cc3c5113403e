// A self-contained gallery: its data are in the document, and are filtered and sorted here.
import { element } from "./dom.js";
import { candidatesCard, groupCard, imageCard, onePair } from "./gallery_cards.js";
import { LazyList } from "./lazy_list.js";

const BINS = 40;
// Columns by whose values a gallery is filtered, if they have a few different ones.
const FACETS = ["evidence", "verdict", "orientation", "transform", "catalog", "keep", "status"];
const MAX_FACET_VALUES = 24;
const NONE = "(none)";
const SIDES = { pairs: ["left", "right"], groups: ["item"], items: ["item"] };

// A notebook shows the page in a frame, which needs no bar of its own.
document.documentElement.classList.toggle("framed", window.parent !== window);
const data = JSON.parse(document.getElementById("gallery-data").textContent);
const images = JSON.parse(document.getElementById("gallery-images").textContent);
const form = document.getElementById("filters");
const scoreName = ["similarity", "distance"].find((name) => data.rows[name]);
const scores = scoreName ? data.rows[scoreName] : null;
const nearerIsSmaller = scoreName === "distance";
const units = unitsOf();
const texts = [];
let shown = units;

/** The row at a position as an object, with its images and the columns of its items. */
function rowAt(position) {
  const row = {};
  for (const [name, values] of Object.entries(data.rows)) row[name] = values[position];
  for (const side of SIDES[data.layout]) {
    const prefix = side === "item" ? "" : `${side}_`;
    const thumbnail = data.thumbnails[side][position];
    row[`${prefix}source`] = thumbnail === null ? null : images[thumbnail];
    row[side] = columnsAt(side, data.details[side]?.positions[position]);
  }
  row.pair = columnsAt("pair", position);
  return row;
}

function columnsAt(side, position) {
  const details = data.details[side];
  if (!details || position === undefined || position === null) return null;
  return Object.fromEntries(Object.entries(details.columns).map(([name, values]) => [name, values[position]]));
}

/** The positions of the rows that one card shows: those of a left item, or of a group. */
function unitsOf() {
  const key = { pairs: "left_id", groups: "group_id" }[data.layout];
  if (!key) return Array.from({ length: data.count }, (_, position) => [position]);
  const byKey = new Map();
  data.rows[key].forEach((value, position) => {
    if (byKey.has(value)) byKey.get(value).push(position);
    else byKey.set(value, [position]);
  });
  return [...byKey.values()];
}

function drawCard(positions) {
  const rows = positions.map(rowAt);
  if (data.layout === "groups") return groupCard(rows);
  if (data.layout === "items") return imageCard(rows[0]);
  return hasSeveral ? candidatesCard(rows, data.labels) : onePair(rows[0], data.labels);
}

/** All words of a row in lower case, for the search. */
function textOf(position) {
  if (texts[position] === undefined) {
    const row = rowAt(position);
    const values = [row.left_id, row.right_id, row.id, row.group_id, row.reason];
    for (const columns of [row.left, row.right, row.item, row.pair]) values.push(...Object.values(columns ?? {}));
    texts[position] = values.filter((value) => value !== null && value !== undefined).join("\n").toLowerCase();
  }
  return texts[position];
}

/** Positions that pass the filters, of a group all or none. */
function filtered() {
  const words = form.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const cutoff = form.cutoff ? Number(form.cutoff.value) : null;
  const chosen = facets.map((name) => [data.rows[name], form.elements[name].value]).filter(([, value]) => value !== "");
  const passes = (position) =>
    (cutoff === null || cutoff === loosest() || isNear(scores[position], cutoff)) &&
    chosen.every(([values, value]) => facetValue(values[position]) === value) &&
    words.every((word) => textOf(position).includes(word));
  const kept = [];
  for (const unit of units) {
    const some = unit.filter(passes);
    if (some.length) kept.push(data.layout === "groups" ? unit : some);
  }
  return kept;
}

function isNear(score, cutoff) {
  // A slider rounds its value: include a row exactly at it.
  if (score === null) return false;
  return nearerIsSmaller ? score <= cutoff + 1e-9 : score >= cutoff - 1e-9;
}

function loosest() {
  return Number(nearerIsSmaller ? form.cutoff.max : form.cutoff.min);
}

function facetValue(value) {
  return value === null ? NONE : String(value);
}

const ORDERS = {
  table: null,
  nearest: (unit) => (nearerIsSmaller ? 1 : -1) * best(unit),
  farthest: (unit) => (nearerIsSmaller ? -1 : 1) * best(unit),
  largest: (unit) => -unit.length,
};

function best(unit) {
  const values = unit.map((position) => scores[position]).filter((value) => value !== null);
  if (data.layout === "groups") return Math.min(...values);
  return nearerIsSmaller ? Math.min(...values) : Math.max(...values);
}

function sorted(kept) {
  const key = ORDERS[form.order.value];
  if (!key) return kept;
  return kept.map((unit) => [key(unit), unit]).sort((a, b) => a[0] - b[0]).map(([, unit]) => unit);
}

function update() {
  shown = sorted(filtered());
  list.show(shown);
  const rows = shown.reduce((sum, unit) => sum + unit.length, 0);
  const nouns = { pairs: ["pairs", "items"], groups: ["items", "groups"], items: ["images", null] }[data.layout];
  const total = (count, all) => (count === all ? count.toLocaleString("en") : `${count.toLocaleString("en")} of ${all.toLocaleString("en")}`);
  const noun = (count, many) => (count === 1 ? many.slice(0, -1) : many);
  const parts = [`${total(rows, data.count)} ${noun(data.count, nouns[0])}`];
  if (nouns[1] && (hasSeveral || data.layout === "groups")) {
    parts.push(`${total(shown.length, units.length)} ${noun(units.length, nouns[1])}`);
  }
  document.getElementById("count").textContent = parts.join(", ");
  document.getElementById("nothing").hidden = shown.length > 0;
  if (form.cutoff) document.getElementById("cutoff-value").textContent = Number(form.cutoff.value).toFixed(4);
}

/** The controls that these rows need. */
function buildControls() {
  const orders = [["table", "order of the table"]];
  if (scores) {
    orders.push(["nearest", nearerIsSmaller ? "smallest distance first" : "highest similarity first"]);
    orders.push(["farthest", nearerIsSmaller ? "largest distance first" : "lowest similarity first"]);
  }
  if (data.layout === "groups") orders.push(["largest", "largest group first"]);
  form.order.append(...orders.map(([value, text]) => element("option", { value, text })));
  form.order.parentElement.hidden = orders.length < 2;
  const found = [];
  for (const name of FACETS) {
    const values = [...new Set((data.rows[name] ?? []).map(facetValue))].sort();
    if (values.length < 2 || values.length > MAX_FACET_VALUES) continue;
    const select = element("select", { name }, element("option", { value: "", text: "all" }));
    select.append(...values.map((value) => element("option", { value, text: value.replaceAll("_", " ") })));
    form.querySelector(".facets").append(element("label", {}, name, select));
    found.push(name);
  }
  return found;
}

/** A slider over the scores, under a histogram of them. */
function buildCutoff() {
  const finite = (scores ?? []).filter((score) => score !== null);
  if (data.layout === "items" || finite.length < 2) return;
  const [low, high] = finite.reduce(([a, b], score) => [Math.min(a, score), Math.max(b, score)], [Infinity, -Infinity]);
  if (low === high) return;
  const limits = { step: "any", min: String(low), max: String(high), value: String(nearerIsSmaller ? high : low) };
  const range = element("input", { type: "range", name: "cutoff", id: "cutoff", ...limits });
  const label = element("label", { for: "cutoff", text: nearerIsSmaller ? "distance at most" : "similarity at least" });
  const output = element("output", { for: "cutoff", id: "cutoff-value", class: "number" });
  form.querySelector(".cutoff").append(histogram(finite, low, high), element("div", { class: "toolbar" }, label, range, output));
}

function histogram(values, low, high) {
  const counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.min(Math.floor(((value - low) / (high - low)) * BINS), BINS - 1)] += 1;
  const tallest = Math.max(...counts);
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", `0 0 ${BINS * 8} 48`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${scoreName} of ${values.length} rows, from ${low.toFixed(4)} to ${high.toFixed(4)}`);
  counts.forEach((count, bin) => {
    const bar = document.createElementNS(namespace, "rect");
    const height = count && Math.max((count / tallest) * 46, 1);
    for (const [name, value] of Object.entries({ x: bin * 8, y: 48 - height, width: 7, height })) bar.setAttribute(name, value);
    svg.append(bar);
  });
  return svg;
}

/** Move to the card after or before the one that has the focus. */
function move(step) {
  const position = list.positionOf(document.activeElement);
  const next = position < 0 ? 0 : Math.min(Math.max(position + step, 0), shown.length - 1);
  if (!shown.length) return;
  const card = list.at(next);
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

const facets = buildControls();
buildCutoff();
const hasSeveral = data.layout === "pairs" && units.some((unit) => unit.length > 1);
const kinds = {
  pairs: hasSeveral ? { block: 8, blockClass: "block rows", height: 2400 } : { block: 24, blockClass: "block pairs", height: 3600 },
  groups: { block: 8, blockClass: "block groups", height: 2600 },
  items: { block: 60, tag: "ul", blockClass: "block grid", height: 2400 },
};
const list = new LazyList(document.getElementById("gallery"), drawCard, kinds[data.layout]);
form.addEventListener("input", update);
form.addEventListener("reset", () => setTimeout(update));
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === form.search) return list.at(0)?.focus();
  if (event.target.matches?.("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    form.search.focus();
  } else if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
});
update();
