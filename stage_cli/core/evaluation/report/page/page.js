// What all parts of the page share: the data, small helpers, the theme.

const data = JSON.parse(document.getElementById("data").textContent);
const systemsByName = new Map(data.systems.map((system) => [system.name, system]));

// Systems are numbered apart from anchors, as in the tables: the same colour everywhere.
data.systems.filter((system) => system.role === "system").forEach((system, place) => (system.colour = place % 6));

/** Makes an element. Text is set as text, never as HTML: a song may be called anything. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function systemTitle(name) {
  return systemsByName.get(name)?.title ?? name;
}

/** The class that gives an element its system's colour. */
function systemClass(name) {
  const system = systemsByName.get(name);
  return system?.role === "system" ? `system colour-${system.colour}` : "anchor";
}

function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const places = size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3;
  return value.toFixed(places).replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212");
}

function formatTime(seconds) {
  const whole = Math.floor(seconds + 1e-6);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Calls `enter(target)` when an element comes near the window, and `leave(target)` when it goes far away. */
function watchNear(enter, leave = null) {
  return new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) enter(entry.target);
        else if (leave) leave(entry.target);
      }
    },
    { rootMargin: "900px 0px" },
  );
}

const themeButton = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : prefersDark.matches;
}

function showTheme() {
  const other = isDark() ? "Light" : "Dark";
  themeButton.textContent = other;
  themeButton.setAttribute("aria-label", `Switch to ${other.toLowerCase()} colours`);
  document.dispatchEvent(new Event("themechange"));
}

themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
prefersDark.addEventListener("change", showTheme);
showTheme();
