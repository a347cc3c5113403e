// Explore works with links and forms; this adds keys, dropped images, copies and decisions in place.
const REVIEWER = "imgsim.reviewer";

/** Say something to people who see the page and to those who hear it. */
function say(text) {
  for (const place of document.querySelectorAll("[data-said]")) place.textContent = text;
}

// On a narrow screen the tabs scroll.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

// A key follows the link that names it; "/" goes to the search field.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, [contenteditable]")) return;
  const key = event.key.toLowerCase();
  const field = document.querySelector(`[data-focus-key="${CSS.escape(key)}"]`);
  const link = document.querySelector(`a[data-key="${CSS.escape(key)}"]`);
  if (!field && !link) return;
  event.preventDefault();
  if (field) field.focus();
  else link.click();
});

// An image that cannot be shown says so.
function markUnreadable(image) {
  const frame = image.closest(".frame");
  if (!frame) return;
  frame.classList.add("none");
  frame.textContent = "unreadable";
}
document.addEventListener("error", (event) => {
  if (event.target instanceof HTMLImageElement) markUnreadable(event.target);
}, true);
for (const image of document.images) {
  if (image.complete && image.naturalWidth === 0 && image.currentSrc) markUnreadable(image);
}

// A dropped or pasted image is searched for.
const drop = document.querySelector("[data-drop]");
if (drop) {
  const file = drop.querySelector("input[type=file]");
  const search = (files) => {
    const image = [...(files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!image) return false;
    const chosen = new DataTransfer();
    chosen.items.add(image);
    file.files = chosen.files;
    drop.requestSubmit();
    return true;
  };
  drop.addEventListener("submit", (event) => {
    if (file.files[0]?.size <= Number(drop.dataset.maxBytes)) return;
    event.preventDefault();
    say(`The image has more than ${drop.dataset.maxBytes} bytes, which is the limit.`);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    search(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (search(event.clipboardData.files)) event.preventDefault();
  });
}

// A line for the clipboard; where that is blocked, the line is shown to be copied by hand.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    say("The line is copied.");
  } catch {
    say(`Copy this line: ${button.dataset.copy}`);
  }
});

// Decisions are recorded in place.
function reviewer() {
  return document.querySelector("#reviewer")?.value.trim() ?? null;
}
const name = document.querySelector("#reviewer");
if (name) {
  name.value ||= localStorage.getItem(REVIEWER) ?? "";
  name.addEventListener("change", () => localStorage.setItem(REVIEWER, name.value.trim()));
  name.form.addEventListener("submit", (event) => event.preventDefault());
}

// One request after the other: the last decision about a pair is the last one that is recorded.
let recorded = Promise.resolve();
document.addEventListener("submit", (event) => {
  const form = event.target.closest("[data-judge]");
  if (!form) return;
  event.preventDefault();
  if (reviewer() === "") {
    say("Who decides? Give your name first.");
    name.focus();
    return;
  }
  const fields = new FormData(form, event.submitter);
  if (reviewer() !== null) fields.set("reviewer", reviewer());
  recorded = recorded.then(() => record(form, fields));
});

async function record(form, fields) {
  const verdict = fields.get("verdict");
  try {
    const headers = { accept: "application/json" };
    const body = new URLSearchParams(fields);
    const response = await fetch(form.action, { method: "POST", body, headers, keepalive: true });
    if (!response.ok) throw new Error((await response.json()).detail);
  } catch (error) {
    say(`Not recorded: ${error.message}`);
    return;
  }
  for (const button of form.querySelectorAll("[name=verdict]")) {
    if (button.value === "cleared") button.hidden = verdict === "cleared";
    else button.setAttribute("aria-pressed", String(button.value === verdict));
  }
  say(verdict === "cleared" ? "The decision is taken back." : `Recorded: ${verdict}. The next run honours it.`);
}
