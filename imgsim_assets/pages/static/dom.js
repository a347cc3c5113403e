// Elements from text of others, which is never parsed as HTML, and requests to the API.
const root = document.documentElement.dataset.root ?? "";
const UNPRINTABLE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;
const MAX_TEXT = 400;

/** A path of this server. */
export function path(relative) {
  return root + relative;
}

/** The URL of an image that is `side` pixels wide or high; the original without a side. */
export function imageUrl(sha256, side) {
  const base = `${root}/api/images/${encodeURIComponent(sha256)}`;
  return side ? `${base}?side=${side}` : base;
}

/** An element with properties (class, text, attributes, on... listeners) and children. */
export function element(name, properties = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") created.className = value;
    else if (key === "text") created.textContent = value;
    else if (key.startsWith("on")) created.addEventListener(key.slice(2), value);
    else created.setAttribute(key, value === true ? "" : value);
  }
  created.append(...children.filter((child) => child !== null && child !== undefined));
  return created;
}

/** Text of others: without control characters and marks of direction, and cut. */
export function plainText(value, length = MAX_TEXT) {
  const text = String(value ?? "").slice(0, length + 1).replace(UNPRINTABLE, "\ufffd");
  return text.length > length ? `${text.slice(0, length - 1)}\u2026` : text;
}

/** Text of others in an element of its own direction. */
export function foreignText(value, length = MAX_TEXT) {
  return element("bdi", { text: plainText(value, length) });
}

/** A link to a page of others if the URL has one of HTTP's schemes, else its text. */
export function foreignLink(url, label = url) {
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    return foreignText(label);
  }
  if (!["http:", "https:"].includes(parsed.protocol)) return foreignText(label);
  return element(
    "a",
    { href: parsed.href, target: "_blank", rel: "noopener noreferrer" },
    foreignText(label, 120),
  );
}

/** The answer of the API to a GET as JSON. */
export async function getJson(relative, { signal } = {}) {
  return answer(await fetch(path(relative), { signal, headers: { accept: "application/json" } }));
}

/** The answer of the API to a POST of JSON. */
export async function postJson(relative, body) {
  const headers = { "content-type": "application/json", accept: "application/json" };
  return answer(await fetch(path(relative), { method: "POST", headers, body: JSON.stringify(body), keepalive: true }));
}

async function answer(response) {
  if (response.ok) return response.json();
  let detail = `${response.status} ${response.statusText}`;
  try {
    const body = await response.json();
    if (typeof body.detail === "string") detail = body.detail;
  } catch {
    // A proxy answered with a page of its own.
  }
  const error = new Error(plainText(detail));
  error.status = response.status;
  throw error;
}
