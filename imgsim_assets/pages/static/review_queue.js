// The pairs of a tab, loaded ahead, and the decisions about them, sent one after the other.
import { getJson, imageUrl, postJson } from "./dom.js";

const PAGE = 50;
const AHEAD = 15;
const IMAGES_AHEAD = 4;
const CANDIDATES_AHEAD = 2;
const SIDE = 800;
const MAX_DECISIONS = 200;

/** A text that identifies a pair of items. */
export function pairKey(pair) {
  return JSON.stringify([pair.left_id, pair.right_id]);
}

/** The URL of the image of a side of a pair, as the viewer shows it; null without one. */
export function pairImage(pair, side) {
  const sha256 = pair[`${side}_sha256`];
  return sha256 ? imageUrl(sha256, SIDE) : null;
}

/** The pairs of one tab of a match table. */
export class Queue {
  constructor(api, tab, version) {
    this.api = api;
    this.tab = tab;
    this.version = version;
    this.total = 0;
    this.judged = 0;
    this.firstOpen = null;
    this.precision = null;
    this.pairs = new Map();
    this.loading = new Map();
    this.candidates = new Map();
    this.images = new Map();
  }

  /** The pair at a position; loads it, and those that follow, if need be. */
  async at(position) {
    if (!this.pairs.has(position)) await this.load(position);
    return this.pairs.get(position) ?? null;
  }

  /** Load the page of pairs that a position is in. */
  load(position) {
    const start = Math.floor(position / PAGE) * PAGE;
    if (!this.loading.has(start)) {
      const loading = this.fetchPage(start).catch((error) => {
        this.loading.delete(start);
        throw error;
      });
      this.loading.set(start, loading);
    }
    return this.loading.get(start);
  }

  async fetchPage(start) {
    const query = new URLSearchParams({ tab: this.tab, position: start, limit: PAGE });
    if (this.version) query.set("version", this.version);
    const page = await getJson(`${this.api}/pairs?${query}`);
    this.version = page.version;
    this.total = page.total;
    this.judged = page.judged;
    this.precision = page.precision;
    if (this.firstOpen === null) this.firstOpen = page.first_open;
    page.pairs.forEach((pair, index) => this.pairs.set(start + index, pair));
  }

  /** Load what a person is likely to look at next: pairs, their images and their candidates. */
  prefetch(position) {
    const last = Math.min(position + AHEAD, this.total - 1);
    if (last >= 0 && !this.pairs.has(last)) this.load(last).catch(() => {});
    for (let ahead = 1; ahead <= IMAGES_AHEAD; ahead++) {
      const pair = this.pairs.get(position + ahead);
      if (!pair) continue;
      for (const side of ["left", "right"]) this.keepImage(pairImage(pair, side));
      if (ahead <= CANDIDATES_AHEAD) this.candidatesOf(pair.left_id).catch(() => {});
    }
  }

  keepImage(url) {
    if (!url || this.images.has(url)) return;
    const image = new Image();
    image.src = url;
    this.images.set(url, image);
    if (this.images.size > 64) this.images.delete(this.images.keys().next().value);
  }

  /** The candidates of a left item, also those below the threshold. */
  candidatesOf(leftId) {
    if (!this.candidates.has(leftId)) {
      const query = new URLSearchParams({ left_id: leftId });
      if (this.version) query.set("version", this.version);
      const loading = getJson(`${this.api}/candidates?${query}`).then((answer) => answer.pairs);
      loading.catch(() => this.candidates.delete(leftId));
      this.candidates.set(leftId, loading);
      if (this.candidates.size > 64) this.candidates.delete(this.candidates.keys().next().value);
    }
    return this.candidates.get(leftId);
  }

  /** Show a verdict wherever a pair is loaded. */
  mark(decided, verdict, details = {}) {
    const key = pairKey(decided);
    const change = (pair) => {
      if (pairKey(pair) === key) Object.assign(pair, { verdict, reviewer: null, note: null, ...details });
    };
    for (const pair of this.pairs.values()) {
      if (pairKey(pair) === key && Boolean(pair.verdict) !== Boolean(verdict)) this.judged += verdict ? 1 : -1;
      change(pair);
    }
    change(decided);
    this.candidates.get(decided.left_id)?.then((pairs) => pairs.forEach(change), () => {});
  }
}

/** Decisions on their way to the server, in the order in which they were made. */
export class Decisions {
  constructor(api, onChange, onFailure) {
    this.api = api;
    this.onChange = onChange;
    this.onFailure = onFailure;
    this.waiting = [];
    this.isSending = false;
    this.made = [];
  }

  /** How many decisions are not recorded yet. */
  get pending() {
    return this.waiting.length;
  }

  /** Send a decision; those that are made while a request runs are sent together. */
  send(pair, verdict, reviewer, note, before) {
    const names = ["left_id", "right_id", "left_sha256", "right_sha256"];
    const decision = { ...Object.fromEntries(names.map((name) => [name, pair[name]])), verdict, note: note || null };
    this.waiting.push({ pair, reviewer, decision, before });
    if (!this.isSending) this.sendAll();
    this.onChange();
  }

  async sendAll() {
    this.isSending = true;
    while (this.waiting.length) {
      const { reviewer } = this.waiting[0];
      const others = this.waiting.findIndex((each) => each.reviewer !== reviewer);
      await this.sendSome(this.waiting.slice(0, others < 0 ? MAX_DECISIONS : Math.min(others, MAX_DECISIONS)));
      this.onChange();
    }
    this.isSending = false;
  }

  async sendSome(some) {
    const body = { reviewer: some[0].reviewer, decisions: some.map((each) => each.decision) };
    let problem = null;
    try {
      await postJson(`${this.api}/decisions`, body);
    } catch (error) {
      problem = error;
    }
    if (problem !== null && some.length > 1) {
      // None is recorded then: find out which of them is refused.
      for (const each of some) await this.sendSome([each]);
      return;
    }
    this.waiting.splice(this.waiting.indexOf(some[0]), some.length);
    if (problem !== null) this.onFailure(some[0].pair, problem, some[0].before);
  }
}
