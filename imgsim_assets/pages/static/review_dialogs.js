// What is asked once and kept in the browser: who decides, and whether single keys are shortcuts.
const REVIEWER = "imgsim.reviewer";
const SHORTCUTS = "imgsim.shortcuts";
const kept = new Map();

function recall(key) {
  try {
    return localStorage.getItem(key) ?? kept.get(key) ?? null;
  } catch {
    return kept.get(key) ?? null; // storage is blocked
  }
}

function keep(key, value) {
  kept.set(key, value);
  try {
    localStorage.setItem(key, value);
  } catch {
    // It is kept until the page is left.
  }
}

// Until a browser draws again, the focus stays in a field of a closed dialog, and takes the keys.
document.addEventListener(
  "close",
  ({ target }) => {
    if (target.contains(document.activeElement)) document.activeElement.blur();
  },
  true,
);

/** The name of the person: as a proxy passes it, or as it was given in this browser. */
export class Reviewer {
  constructor() {
    this.dialog = document.getElementById("reviewer");
    this.input = document.getElementById("reviewer-input");
    this.shown = document.getElementById("reviewer-name");
    this.rename = document.getElementById("rename");
    this.proxied = null;
    this.rename.addEventListener("click", () => this.ask());
    this.show();
  }

  /** Take the name that a proxy passes; it cannot be changed here. */
  setProxied(name) {
    this.proxied = name;
    this.show();
  }

  get name() {
    return this.proxied ?? recall(REVIEWER);
  }

  show() {
    this.shown.textContent = this.name ?? "not named yet";
    this.rename.hidden = this.proxied !== null;
  }

  /** The name, asked for if need be; null if the person cancels. */
  async require() {
    return this.name ?? (await this.ask());
  }

  ask() {
    this.input.value = recall(REVIEWER) ?? "";
    this.dialog.returnValue = "cancel";
    this.dialog.showModal();
    this.input.focus();
    return new Promise((resolve) => {
      this.dialog.addEventListener(
        "close",
        () => {
          const name = this.input.value.trim();
          const isNamed = this.dialog.returnValue === "ok" && name;
          if (isNamed) keep(REVIEWER, name);
          this.show();
          resolve(isNamed ? name : null);
        },
        { once: true },
      );
    });
  }
}

/** The help dialog, and the switch of the shortcuts in it. */
export class Help {
  constructor() {
    this.dialog = document.getElementById("help");
    this.box = document.getElementById("shortcuts");
    this.box.checked = recall(SHORTCUTS) !== "off";
    this.box.addEventListener("change", () => keep(SHORTCUTS, this.box.checked ? "on" : "off"));
    document.querySelector("[data-dialog=help]").addEventListener("click", () => this.open());
  }

  get hasShortcuts() {
    return this.box.checked;
  }

  open() {
    this.dialog.showModal();
  }
}
