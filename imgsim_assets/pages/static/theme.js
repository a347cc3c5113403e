// The light or dark theme that a person chose; without a choice, that of the system.
const KEY = "imgsim.theme";
const THEMES = ["system", "light", "dark"];

function chosenTheme() {
  try {
    const stored = localStorage.getItem(KEY);
    return THEMES.includes(stored) ? stored : "system";
  } catch {
    return "system"; // storage is blocked
  }
}

function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    button.textContent = `Theme: ${theme}`;
  }
}

function switchTheme() {
  const theme = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // The choice lasts until the next page.
  }
  applyTheme(theme);
}

applyTheme(chosenTheme());
document.addEventListener("DOMContentLoaded", () => applyTheme(chosenTheme()));
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-theme-switch]")) switchTheme();
});
