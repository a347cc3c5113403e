// The cards of a gallery: pairs, an item with its candidates, groups and single images.
import { element, foreignLink, foreignText, plainText } from "./dom.js";
import { badge, comparison, frame, pairCard, pairFacts } from "./pair.js";

const SHOWN_COLUMNS = 12;
// Candidates of an item and members of a group that are drawn at once.
const SHOWN_ENTRIES = 60;
// Groups of so many members stand beside each other.
const SMALL_GROUP = 2;
const STARTS_AS_URL = /^https?:\/\//i;

/** An element of the list that keys can reach. */
function reachable(card) {
  card.tabIndex = -1;
  return card;
}

/** The card of one pair. */
export function onePair(row, labels) {
  const card = pairCard(row, (each, side) => each[`${side}_source`], labels);
  addFacts(card.querySelector(".pair-facts"), row);
  return reachable(card);
}

/** The card of a left item beside several candidates. */
export function candidatesCard(rows, labels) {
  const first = rows[0];
  const card = element("article", { class: "pair candidates", "aria-label": `${plainText(first.left_id, 80)} and ${rows.length === 1 ? "another" : `${rows.length} others`}` });
  const byImage = new Map(rows.map((row) => [row.left_image ?? 0, row]));
  const images = [...byImage.keys()].sort((a, b) => a - b);
  const lead = element("div", { class: "lead" });
  for (const image of images) {
    const note = images.length > 1 || image ? `image ${image}` : "";
    lead.append(imageFigure(first.left_id, byImage.get(image).left_source, note));
  }
  if (first.left) lead.append(columnList(first.left));
  card.append(lead, longList(rows, (row) => candidate(row, images.length > 1, labels)));
  return reachable(card);
}

function candidate(row, namesLeftImage, labels) {
  const notes = [];
  if (row.right_image) notes.push(`image ${row.right_image}`);
  if (namesLeftImage) notes.push(`nearest to image ${row.left_image}`);
  const facts = pairFacts(row);
  addFacts(facts, row);
  const entry = element("li", {}, imageFigure(row.right_id, row.right_source, notes.join(", ")), facts);
  if (!row.left && row.right) entry.append(columnList(row.right));
  if (row.left && row.right) {
    const columns = element("details", {}, element("summary", { text: "columns" }));
    columns.addEventListener("toggle", () => {
      if (columns.childElementCount === 1) {
        const table = comparison(row.left, row.right, labels);
        columns.append(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "columns" }, table));
      }
    });
    entry.append(columns);
  }
  return entry;
}

/** What is known of a pair beside similarity, rank, evidence and verdict. */
function addFacts(facts, row) {
  if (typeof row.distance === "number" && typeof row.similarity !== "number") {
    facts.prepend(element("span", { class: "similarity", title: "distance", text: row.distance.toFixed(4) }));
  }
  for (const name of ["transform", "orientation"]) {
    if (row[name] && !["identity", "upright"].includes(row[name])) facts.append(badge(row[name]));
  }
  for (const [name, value] of Object.entries(row.pair ?? {})) {
    if (value === null || value === "") continue;
    facts.append(element("span", { class: "muted" }, foreignText(name, 60), " ", shownValue(value)));
  }
}

/** The card of a group of duplicates. */
export function groupCard(rows) {
  const first = rows[0];
  const size = rows.length > SMALL_GROUP ? "large" : "small";
  const card = element("article", { class: `card group ${size}`, "aria-label": `group ${plainText(first.group_id, 80)}` });
  card.append(element("h2", {}, foreignText(first.group_id)), groupFacts(first));
  card.append(longList(rows, memberCard));
  return reachable(card);
}

function memberCard(row) {
  const entry = imageCard(row);
  if (typeof row.keep === "boolean") {
    entry.classList.add(row.keep ? "kept" : "redundant");
    const kind = row.keep ? "keep" : "redundant";
    entry.querySelector("figure").after(element("span", { class: `badge ${kind}`, text: kind }));
  }
  return entry;
}

/** A list that is drawn in parts, each by a button. */
function longList(rows, draw) {
  const list = element("ul", { class: "grid" });
  const button = element("button", { type: "button" });
  let drawn = 0;
  const drawMore = () => {
    const first = drawn;
    for (const row of rows.slice(drawn, drawn + SHOWN_ENTRIES)) list.append(draw(row));
    drawn = Math.min(drawn + SHOWN_ENTRIES, rows.length);
    button.textContent = `Show more, ${(rows.length - drawn).toLocaleString("en")} are left`;
    button.hidden = drawn === rows.length;
    if (first) {
      list.children[first].tabIndex = -1;
      list.children[first].focus();
    }
  };
  button.addEventListener("click", drawMore);
  drawMore();
  return element("div", {}, list, button);
}

function groupFacts(row) {
  const facts = [row.size === 1 ? "1 item" : `${row.size} items`];
  if (typeof row.min_similarity === "number") facts.push(`similarity at least ${row.min_similarity.toFixed(3)}`);
  if (typeof row.mean_similarity === "number") facts.push(`${row.mean_similarity.toFixed(3)} on average`);
  if (row.bridges) facts.push(row.bridges === 1 ? "1 bridge" : `${row.bridges} bridges`);
  if (row.judged) facts.push(`${row.judged} judged a match`);
  return element("p", { class: "muted", text: facts.join(", ") });
}

/** The card of one image. */
export function imageCard(row) {
  const note = row.image ? `image ${row.image}` : "";
  const card = element("li", { class: "card image" }, imageFigure(row.id, row.source, note));
  if (typeof row.similarity === "number") card.append(element("p", { class: "muted", text: `similarity ${row.similarity.toFixed(4)}` }));
  if (row.reason) card.append(element("p", {}, foreignText(row.reason)));
  if (row.item) card.append(columnList(row.item));
  return reachable(card);
}

function imageFigure(id, source, note) {
  const caption = element("figcaption", {}, foreignText(id, 200));
  if (note) caption.append(" ", element("small", { text: note }));
  return element("figure", {}, frame(source, note ? `${id}, ${note}` : id), caption);
}

/** The columns of one item. */
function columnList(columns) {
  const list = element("dl", { class: "columns" });
  const present = Object.entries(columns).filter(([, value]) => value !== null && value !== "");
  for (const [name, value] of present.slice(0, SHOWN_COLUMNS)) {
    list.append(element("div", {}, element("dt", {}, foreignText(name, 60)), element("dd", {}, shownValue(value))));
  }
  return list;
}

function shownValue(value) {
  return typeof value === "string" && STARTS_AS_URL.test(value) ? foreignLink(value) : foreignText(value);
}
