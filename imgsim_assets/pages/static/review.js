// The review page: one pair after the other, judged by keys or buttons.
import { element, foreignLink, foreignText, getJson, imageUrl, plainText } from "./dom.js";
import { badge, comparison, frame, pairFacts } from "./pair.js";
import { Help, Reviewer } from "./review_dialogs.js";
import { Decisions, Queue, pairKey } from "./review_queue.js";
import { scoresPanel } from "./review_scores.js";
import { Viewer } from "./review_viewer.js";

const TITLES = {
  new: "New",
  near: "Near the threshold",
  random: "Random",
  all: "All matches",
  accepted: "Accepted",
  rejected: "Rejected",
  unsure: "Unsure",
  unmatched: "Unmatched",
};
const HINTS = {
  new: "Matches that the previous version did not have",
  near: "Pairs nearest the threshold, above and below, first",
  random: "Matches in random order, to measure precision",
  all: "All matches, the most similar first",
  accepted: "Pairs judged a match, the latest first",
  rejected: "Pairs judged different, the latest first",
  unsure: "Pairs that nobody was sure about",
  unmatched: "Left items without a match, beside the nearest right item",
};
const EMPTY = {
  accepted: "No pair has been accepted yet.",
  rejected: "No pair has been rejected yet.",
  unsure: "Nobody has been unsure yet.",
  unmatched: "Every left item has a match.",
};
const WORDS = { match: "Match", different: "Different", unsure: "Unsure" };
const NEWS_MS = 20_000;
const URL_MS = 200;
const LOADING_MS = 400;

const byId = (id) => document.getElementById(id);
const name = byId("review").dataset.name;
const api = `/api/review/${encodeURIComponent(name)}`;
const reviewer = new Reviewer();
const help = new Help();
const viewer = new Viewer(byId("viewer"), api, showImage);
const decisions = new Decisions(api, showSaving, undoFailed);
const state = { summary: null, queue: null, position: 0, pair: null, candidate: null, deciding: false };
const summarized = getJson(api).then(showSummary);

// ---- start, tabs and places

async function start() {
  const query = new URLSearchParams(location.search);
  const tab = query.get("tab") in TITLES ? query.get("tab") : "new";
  const position = Number.parseInt(query.get("position") ?? "", 10);
  await Promise.all([summarized, openTab(tab, Number.isSafeInteger(position) && position >= 0 ? position : null)]);
  setInterval(lookForNews, NEWS_MS);
}

async function openTab(tab, position = null) {
  const queue = new Queue(api, tab, state.queue?.version);
  state.queue = queue;
  state.candidate = null; // a pair of another tab is judged no more
  showTabs();
  const waiting = setTimeout(() => showLoading(queue), LOADING_MS);
  await queue.load(position ?? 0).finally(() => clearTimeout(waiting));
  if (state.queue !== queue) return;
  showTabs();
  await goTo(position === null ? (queue.firstOpen ?? 0) : position);
}

function showLoading(queue) {
  if (state.queue !== queue) return;
  byId("pair").hidden = true;
  byId("empty").hidden = false;
  byId("empty").setAttribute("aria-busy", "true");
  byId("empty").textContent = "Loading the pairs";
}

async function goTo(position) {
  const { queue } = state;
  const last = Math.max(0, queue.total - 1);
  state.position = Math.min(Math.max(0, position), last);
  const target = state.position;
  if (!queue.pairs.has(target)) state.candidate = null; // the pair of another place is judged no more
  const pair = await queue.at(target);
  if (state.queue !== queue || state.position !== target) return;
  state.pair = pair;
  showPair(pair);
  queue.prefetch(target);
  rememberPlace();
}

let placing = null;
/** Keep the place in the address; at most so often, since browsers limit it. */
function rememberPlace() {
  if (placing !== null) return;
  writePlace();
  placing = setTimeout(() => {
    placing = null;
    writePlace();
  }, URL_MS);
}

function writePlace() {
  const query = `?${new URLSearchParams({ tab: state.queue.tab, position: state.position })}`;
  if (query !== location.search) history.replaceState(null, "", query);
}

function showSummary(summary) {
  state.summary = summary;
  reviewer.setProxied(summary.reviewer);
  const date = new Date(summary.committed_at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  const count = summary.matches.toLocaleString("en");
  byId("summary").textContent = `${summary.left} \u2192 ${summary.right}: ${count} ${summary.matches === 1 ? "match" : "matches"}, mode ${summary.mode}, threshold ${summary.threshold.toFixed(3)}, version ${summary.version} of ${date}`;
  const links = [
    ["Asset in Dagster", summary.asset_url],
    ["run of this version", summary.run_url],
  ].filter(([, url]) => url);
  byId("origin").hidden = !links.length;
  byId("origin").replaceChildren(...links.flatMap(([label, url], index) => [index ? ", " : "", foreignLink(url, label)]));
  showTabs();
}

function showTabs() {
  const counts = new Map((state.summary?.tabs ?? []).map((each) => [each.tab, each.count]));
  counts.set(state.queue.tab, state.queue.total);
  const links = Object.entries(TITLES).map(([tab, title]) => {
    const isCurrent = tab === state.queue.tab;
    const link = element("a", { href: `?tab=${tab}`, "aria-current": isCurrent ? "page" : null, title: HINTS[tab] }, title);
    const count = counts.get(tab);
    if (typeof count === "number") link.append(element("span", { class: "count", text: count.toLocaleString("en") }));
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      openTab(tab).catch(showError);
    });
    return link;
  });
  const hadFocus = byId("tabs").contains(document.activeElement);
  byId("tabs").replaceChildren(...links);
  const current = byId("tabs").querySelector("[aria-current]");
  byId("tabs").scrollLeft = current.offsetLeft - (byId("tabs").clientWidth - current.offsetWidth) / 2;
  if (hadFocus) current.focus();
}

async function lookForNews() {
  if (document.hidden || byId("news")) return;
  const summary = await getJson(`${api}?version=${state.queue.version}`).catch(() => null);
  if (!summary) return;
  showSummary(summary);
  if (summary.newest_version <= state.queue.version) return;
  const button = element("button", { type: "button", text: "Show it", onclick: () => location.assign(`?tab=${state.queue.tab}`) });
  byId("notices").append(element("p", { class: "notice", id: "news" }, `The match table has version ${summary.newest_version}.`, button));
}

// ---- the pair

function showPair(pair) {
  const isEmpty = pair === null;
  byId("pair").hidden = isEmpty;
  byId("empty").hidden = !isEmpty;
  byId("empty").removeAttribute("aria-busy");
  showProgress();
  if (isEmpty) {
    byId("empty").textContent = EMPTY[state.queue.tab] ?? "There is no pair in this tab.";
    return;
  }
  state.candidate = pair;
  byId("note").value = "";
  byId("candidates").replaceChildren();
  showCandidate(pair);
  showCandidates(pair).catch(showError);
  announce(pair);
}

function showCandidate(pair) {
  state.candidate = pair;
  viewer.show(pair);
  const facts = pairFacts(pair);
  if (pair.rank === null && pair.right_id !== null) facts.append(badge("no_match"));
  if (pair.reopened) facts.append(element("span", { class: "muted", text: `judged ${pair.reopened} before an image changed` }));
  if (pair.reviewer) facts.append(element("small", {}, "by ", foreignText(pair.reviewer, 60)));
  if (pair.note) facts.append(element("small", {}, foreignText(pair.note, 200)));
  byId("facts").replaceChildren(facts);
  byId("comparison").replaceChildren(comparison(pair.left, pair.right, [pair.left_id, pair.right_id ?? "no candidate"]));
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === pair.verdict));
    button.disabled = pair.right_id === null;
  }
  byId("undo").disabled = !decisions.made.length && !pair.verdict;
  for (const button of byId("candidates").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.key === pairKey(pair)));
  }
}

async function showCandidates(pair) {
  const found = await state.queue.candidatesOf(pair.left_id);
  if (state.pair !== pair) return;
  // The pair of the tab may be known with other images than the nearest ones.
  const candidates = found.map((each) => (pairKey(each) === pairKey(pair) ? pair : each));
  state.candidates = candidates;
  byId("candidates").replaceChildren(...candidates.map((each) => element("li", {}, candidateButton(each))));
  if (pair.right_id === null && candidates.length) showCandidate(candidates[0]);
}

function candidateButton(pair) {
  const line = element("span", { class: "line" }, element("span", { class: "similarity", text: pair.similarity?.toFixed(3) ?? "" }));
  if (pair.verdict) line.append(badge(pair.verdict));
  else if (pair.rank !== null) line.append(badge("matched"));
  const source = pair.right_sha256 ? imageUrl(pair.right_sha256, 240) : null;
  return element(
    "button",
    { type: "button", "data-key": pairKey(pair), "aria-pressed": String(pairKey(pair) === pairKey(state.candidate)), onclick: () => showCandidate(pair) },
    frame(source, ""),
    line,
    element("small", {}, foreignText(pair.right_id, 60)),
  );
}

/** Show another image of an item; a decision is then about that image. */
function showImage(side, image) {
  if (!state.candidate) return;
  const pair = { ...state.candidate, [`${side}_image`]: image.image, [`${side}_sha256`]: image.sha256 };
  showCandidate(pair);
}

function showPrecision() {
  const { precision, tab, judged } = state.queue;
  byId("precision").hidden = tab !== "random";
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  byId("precision").textContent =
    precision === null
      ? `Judge these in their order: from ten pairs on, they measure the precision. ${judged} are judged.`
      : `Precision ${precision.value === null ? "unknown" : percent(precision.value)}, 95 % interval ${percent(precision.low)} to ${percent(precision.high)}, from ${precision.sampled} of ${precision.population.toLocaleString("en")} matches.`;
}

function showProgress() {
  showPrecision();
  const { queue, position } = state;
  const total = queue.total.toLocaleString("en");
  byId("progress").max = Math.max(1, queue.total);
  byId("progress").value = queue.judged;
  byId("progress-text").textContent = `${queue.judged.toLocaleString("en")} of ${total} judged in this tab`;
  byId("position").textContent = queue.total ? `${(position + 1).toLocaleString("en")} of ${total}` : "none";
  byId("previous").disabled = position === 0;
  byId("next").disabled = position >= queue.total - 1;
}

function announce(pair, before = "") {
  const right = pair.right_id === null ? "no candidate" : plainText(pair.right_id, 60);
  const similarity = typeof pair.similarity === "number" ? `, similarity ${pair.similarity.toFixed(3)}` : "";
  byId("announcement").textContent = `${before}Pair ${state.position + 1} of ${state.queue.total}: ${plainText(pair.left_id, 60)} and ${right}${similarity}`;
}

// ---- decisions

/** The name of the person who decides; the summary has the one that a proxy passes. */
async function requirePerson() {
  await summarized.catch(() => {}); // start() shows why it failed
  return reviewer.require();
}

async function decide(verdict) {
  const { candidate: pair, queue, position } = state;
  if (!pair || pair.right_id === null || state.deciding) return;
  const note = byId("note").value.trim();
  state.deciding = true;
  const person = await requirePerson().finally(() => (state.deciding = false));
  if (!person) return;
  const before = pair.verdict;
  decisions.made.push({ pair, before, queue, position });
  decisions.send(pair, verdict, person, note, before);
  queue.mark(pair, verdict, { reviewer: person, note: note || null });
  adjustCounts(before, verdict);
  if (state.queue !== queue || state.position !== position) return showProgress();
  if (position < queue.total - 1) await goTo(position + 1);
  else {
    showProgress();
    showCandidate(pair);
    showCandidates(state.pair).catch(showError);
  }
  if (state.queue === queue) announce(state.pair, `${WORDS[verdict]}. `);
}

/** Take the last decision back, or that about the pair that is shown after a reload. */
async function undo() {
  const last = decisions.made.pop();
  const pair = last?.pair ?? state.candidate;
  if (!pair || (!last && !pair.verdict)) return;
  const person = await requirePerson();
  if (!person) return;
  const verdict = last?.before ?? null;
  const before = pair.verdict;
  adjustCounts(pair.verdict, verdict);
  decisions.send(pair, verdict ?? "cleared", person, "", before);
  state.queue.mark(pair, verdict, { reviewer: verdict ? person : null });
  if (last && last.queue === state.queue) await goTo(last.position);
  else if (state.candidate) showCandidate(state.candidate);
  showProgress();
  byId("announcement").textContent = "Decision taken back";
}

/** Keep the counts of the tabs of verdicts up to date until the summary is read again. */
function adjustCounts(before, after) {
  const tabs = { match: "accepted", different: "rejected", unsure: "unsure" };
  for (const each of state.summary?.tabs ?? []) {
    if (each.tab === tabs[before]) each.count -= 1;
    if (each.tab === tabs[after]) each.count += 1;
  }
  showTabs();
}

function showSaving() {
  const count = decisions.pending;
  byId("saving").textContent = count ? `Saving ${count === 1 ? "a decision" : `${count} decisions`}` : "";
}

function undoFailed(pair, error, before) {
  decisions.made = decisions.made.filter((each) => each.pair !== pair);
  adjustCounts(pair.verdict, before);
  state.queue.mark(pair, before);
  showProgress();
  if (state.candidate && pairKey(state.candidate) === pairKey(pair)) showCandidate(pair);
  showError(new Error(`The decision about ${plainText(pair.left_id, 60)} and ${plainText(pair.right_id, 60)} was not recorded: ${error.message}`));
}

function showError(error) {
  const notice = element("p", { class: "notice error" }, plainText(error.message));
  notice.append(element("button", { type: "button", text: "Dismiss", onclick: () => notice.remove() }));
  byId("notices").append(notice);
}

// ---- views, keys and buttons

function setView(view) {
  if (view === "flicker" && viewer.view === "flicker") viewer.pauseOrFlip();
  else viewer.setView(view);
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === viewer.view));
  }
}

function otherCandidate(step) {
  if (!state.candidate) return;
  const candidates = state.candidates ?? [];
  const index = candidates.findIndex((each) => pairKey(each) === pairKey(state.candidate));
  const chosen = candidates[index + step];
  if (chosen) {
    showCandidate(chosen);
    announce(chosen, "Candidate. ");
  }
}

const MOVE = 60;
const KEYS = {
  a: () => decide("match"),
  r: () => decide("different"),
  u: () => decide("unsure"),
  z: undo,
  j: () => goTo(state.position + 1),
  k: () => goTo(state.position - 1),
  s: () => setView("side"),
  f: () => setView("flicker"),
  d: () => setView("difference"),
  m: () => setView("features"),
  "+": () => viewer.zoomBy(1.5),
  "=": () => viewer.zoomBy(1.5),
  "-": () => viewer.zoomBy(1 / 1.5),
  0: () => viewer.zoomBy(0),
  n: () => byId("note").focus(),
  t: openThreshold,
  "?": () => help.open(),
};
const ARROWS = {
  ArrowDown: () => goTo(state.position + 1),
  ArrowUp: () => goTo(state.position - 1),
  ArrowLeft: () => otherCandidate(-1),
  ArrowRight: () => otherCandidate(1),
};
const MOVES = { ArrowLeft: [MOVE, 0], ArrowRight: [-MOVE, 0], ArrowUp: [0, MOVE], ArrowDown: [0, -MOVE] };

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const isSlider = event.target.type === "range";
  if (event.target.closest("input, textarea, select") && (!isSlider || event.key.length > 1)) {
    if (event.key === "Escape" || (event.key === "Enter" && !isSlider)) event.target.blur();
    return;
  }
  if (event.altKey || event.metaKey || (event.ctrlKey && event.key.toLowerCase() !== "z")) return;
  let action = ARROWS[event.key];
  if (action && event.shiftKey) action = () => viewer.move(...MOVES[event.key]);
  if (!action && help.hasShortcuts) action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || !state.pair || (event.repeat && "aruz".includes(event.key))) return;
  event.preventDefault();
  Promise.resolve(action()).catch(showError);
});

for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => decide(button.dataset.verdict).catch(showError));
}
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => setView(button.dataset.view));
}
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", () => viewer.zoomBy(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5));
}
byId("undo").addEventListener("click", () => undo().catch(showError));
byId("previous").addEventListener("click", () => goTo(state.position - 1).catch(showError));
byId("next").addEventListener("click", () => goTo(state.position + 1).catch(showError));
byId("viewer").addEventListener("zoomed", (event) => {
  byId("zoom").textContent = `${Math.round(event.detail * 100)} %`;
});
window.addEventListener("beforeunload", (event) => {
  if (decisions.pending) event.preventDefault();
});

// ---- the threshold

function openThreshold() {
  byId("scores").open = true;
  byId("threshold")?.focus();
}

byId("scores").addEventListener("toggle", async () => {
  if (!byId("scores").open || byId("threshold")) return;
  try {
    const scores = await getJson(`${api}/scores${state.queue.version ? `?version=${state.queue.version}` : ""}`);
    byId("scores-content").replaceChildren(scoresPanel(scores, state.summary?.has_evidence));
    byId("threshold").focus({ preventScroll: true });
  } catch (error) {
    byId("scores-content").replaceChildren(element("p", { class: "notice error", text: plainText(error.message) }));
  }
});

start().catch(showError);
