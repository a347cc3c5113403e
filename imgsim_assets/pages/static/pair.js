// Two items side by side: their images, what is known of the pair, and their columns.
import { element, foreignLink, foreignText, imageUrl, plainText } from "./dom.js";

const MAX_WORDS = 200;
const IS_URL = /^[a-z][a-z0-9+.-]*:\/\//i;

/** An image in its frame: `source` is a URL, or null for an item without an image. */
export function frame(source, alt, reason = "no image") {
  if (!source) return element("div", { class: "frame none", text: reason });
  const image = element("img", { src: source, alt: plainText(alt, 200), decoding: "async", loading: "lazy" });
  const framed = element("div", { class: "frame" }, image);
  image.addEventListener("error", () => {
    framed.className = "frame none";
    framed.replaceChildren("unreadable");
  });
  return framed;
}

/** A verdict or an evidence tier. */
export function badge(value) {
  return element("span", { class: `badge ${/^[a-z_]+$/.test(value) ? value : ""}`, text: plainText(value, 40).replaceAll("_", " ") });
}

/** What is known of a pair: similarity, rank, evidence and verdict. */
export function pairFacts(row) {
  const facts = element("p", { class: "pair-facts" });
  if (typeof row.similarity === "number") {
    facts.append(element("span", { class: "similarity", title: "similarity", text: row.similarity.toFixed(4) }));
  }
  if (row.rank) facts.append(element("span", { class: "muted", text: `rank ${row.rank}` }));
  if (row.evidence) facts.append(badge(row.evidence));
  if (row.inliers) facts.append(element("span", { class: "muted", text: `${row.inliers} inliers` }));
  if (row.verdict) facts.append(badge(row.verdict));
  return facts;
}

/**
 * The card of a pair.
 *
 * @param row a row of a match table; `left` and `right` hold the columns of its items.
 * @param source (row, side) => the URL of the image of a side, or null.
 * @param labels what the two sides are, for the heads of the columns.
 */
export function pairCard(row, source = defaultSource, labels = undefined) {
  const card = element("article", { class: "pair", "aria-label": `${plainText(row.left_id, 80)} and ${plainText(row.right_id, 80)}` });
  const items = element("div", { class: "pair-items" });
  for (const side of ["left", "right"]) {
    const caption = element("figcaption", {}, foreignText(row[`${side}_id`], 200));
    if (row[`${side}_image`]) caption.append(element("small", { text: ` image ${row[`${side}_image`]}` }));
    items.append(element("figure", {}, frame(source(row, side), row[`${side}_id`]), caption));
  }
  card.append(items, pairFacts(row));
  if (row.left && row.right) card.append(comparison(row.left, row.right, labels));
  return card;
}

function defaultSource(row, side) {
  const sha256 = row[`${side}_sha256`];
  return sha256 ? imageUrl(sha256, 480) : null;
}

/** The columns of two items side by side; where both have a value and these differ, it is marked. */
export function comparison(left, right, labels = ["left", "right"]) {
  const names = [...new Set([...Object.keys(left), ...Object.keys(right)])];
  const head = element("tr", {}, element("td", {}, element("span", { class: "visually-hidden", text: "column" })));
  for (const label of labels) head.append(element("th", { scope: "col" }, foreignText(label, 80)));
  const body = element("tbody");
  for (const name of names) {
    const [a, b] = [left[name], right[name]].map((value) => (isEmpty(value) ? null : value));
    if (a === null && b === null) continue;
    const differs = a !== null && b !== null && String(a) !== String(b);
    const title = element("th", { scope: "row" }, foreignText(name, 80));
    if (differs) title.append(element("span", { class: "visually-hidden", text: " differs" }));
    body.append(element("tr", { class: differs ? "differs" : undefined }, title, cell(a, b), cell(b, a)));
  }
  const columns = element("colgroup", {}, element("col", { class: "name" }), element("col"), element("col"));
  return element("table", { class: "comparison" }, columns, element("thead", {}, head), body);
}

function isEmpty(value) {
  return value === undefined || value === null || value === "" || (Array.isArray(value) && !value.length);
}

function cell(value, other) {
  if (value === null) return element("td", { class: "absent", text: "\u2013" });
  if (typeof value === "string" && IS_URL.test(value)) return element("td", {}, foreignLink(value));
  const text = plainText(value);
  const shown = element("bdi");
  if (other === null || text === plainText(other)) shown.append(text);
  else shown.append(...markedWords(text, plainText(other)));
  return element("td", {}, shown);
}

/** The words of a text; those that the other text lacks, in its order, are marked. */
function markedWords(text, other) {
  const [a, b] = [text, other].map((each) => each.split(/(\s+)/).slice(0, MAX_WORDS));
  const kept = commonWords(a, b);
  return a.map((word, index) => (kept.has(index) || /^\s*$/.test(word) ? word : element("mark", { text: word })));
}

/** The positions in `a` of a longest common subsequence with `b`. */
function commonWords(a, b) {
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const kept = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) kept.add(i), i++, j++;
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return kept;
}
