// The router: addresses to views, and what stands around them.
// In: the address (#/view/what?key=value). Out: a view in <main>, told to end when one leaves it.

import { pause } from "./api.js";
import { el, empty, fill } from "./dom.js";
import { startSearch } from "./search.js";

const TITLES = { data: "Data", map: "Map", user: "User", lookalike: "Look-alikes", training: "Training" };
const main = document.getElementById("main");
let leaving = new AbortController();

/** "#/user/a%2Fb?model=m" as {view: "user", what: "a/b", query: URLSearchParams}. */
function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [view, ...rest] = (path || "data").split("/");
  let what = rest.join("/");
  try {
    what = decodeURIComponent(what);
  } catch { /* a % that means itself */ }
  return { view, what, query: new URLSearchParams(query) };
}

async function go() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { view, what, query } = address();
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === view) {
      tab.setAttribute("aria-current", "page");
      if (document.documentElement.scrollWidth <= innerWidth) tab.scrollIntoView({ block: "nearest", inline: "center" });
    } else tab.removeAttribute("aria-current");
  }
  document.title = `${what || TITLES[view] || "Nothing here"} · userbert`;
  if (!(view in TITLES)) {
    fill(main, empty("Nothing is here", "The address names no view.", el("a", { class: "button", href: "#/data" }, "See the data")));
    return;
  }
  const host = el("div", { class: `view view-${view}` });
  fill(main, host);
  scrollTo(0, 0);
  try {
    const { draw } = await import(`./views/${view}.js`);
    if (!signal.aborted) await draw(host, { what, query, signal });
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (!(await isThere())) {
      hasMissed = true;
      watch();
      return;
    }
    console.error(error);
    fill(host, el("div", { role: "alert" }, empty("This view could not be shown", "Is the service still running?",
      el("button", { type: "button", class: "button", onclick: () => location.reload() }, "Try again"))));
  }
}

/** A banner while the service cannot be reached; when it is back, the view is drawn anew. */
let isAway = false;
let hasMissed = false; // a module that did not come is not asked for again, but by a new page

async function isThere() {
  try {
    return (await fetch("/healthz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

async function watch() {
  if (isAway) return;
  isAway = true;
  const banner = document.getElementById("banner");
  const retry = el("button", { type: "button", class: "button" }, "Try now");
  fill(banner, el("span", {}, "The service does not answer. Start it again, or look at its log; this page goes on by itself."), retry);
  banner.hidden = false;
  while (isAway) {
    await Promise.race([pause(3_000), new Promise((resolve) => retry.addEventListener("click", resolve, { once: true }))]);
    isAway = !(await isThere());
  }
  banner.hidden = true;
  if (hasMissed) location.reload();
  else go();
}

function startTheme(button) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const tell = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    window.dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("userbert-theme", next);
    } catch { /* for this page alone, then */ }
    tell();
  });
  dark.addEventListener("change", tell);
  tell();
}

window.addEventListener("hashchange", go);
window.addEventListener("unreachable", watch);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
startTheme(document.getElementById("theme"));
startSearch(document.getElementById("search"), document.getElementById("found"));
await go();
// The others, while nothing else is to be done.
for (const view of Object.keys(TITLES)) import(`./views/${view}.js`).catch(() => {});
