// Shows the view that the address names; also runs the theme button and the offline banner.
// In: the address (#/view/item?key=value). Out: a view in <main>, aborted when the address changes.

import { pause } from "./api.js";
import { el, empty, fill } from "./dom.js";
import { startSearch } from "./search.js";

const TITLES = { data: "Data", map: "Map", user: "User", lookalike: "Look-alikes", training: "Training" };
const main = document.getElementById("main");
let leaving = new AbortController();

/** Parses "#/user/a%2Fb?model=m" as {view: "user", item: "a/b", query: URLSearchParams}. */
function parseAddress() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [view, ...rest] = (path || "data").split("/");
  let item = rest.join("/");
  try {
    item = decodeURIComponent(item);
  } catch { /* a literal % */ }
  return { view, item, query: new URLSearchParams(query) };
}

async function go() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { view, item, query } = parseAddress();
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === view) {
      tab.setAttribute("aria-current", "page");
      if (document.documentElement.scrollWidth <= innerWidth) tab.scrollIntoView({ block: "nearest", inline: "center" });
    } else tab.removeAttribute("aria-current");
  }
  document.title = `${item || TITLES[view] || "Not found"} · userbert`;
  if (!(view in TITLES)) {
    fill(main, empty("Not found", "There is no view at this address.", el("a", { class: "button", href: "#/data" }, "See the data")));
    return;
  }
  const host = el("div", { class: `view view-${view}` });
  fill(main, host);
  scrollTo(0, 0);
  try {
    const { draw } = await import(`./views/${view}.js`);
    if (!signal.aborted) await draw(host, { item, query, signal });
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (!(await isReachable())) {
      mustReload = true;
      watch();
      return;
    }
    console.error(error);
    fill(host, el("div", { role: "alert" }, empty("This view could not be shown", "The console of the browser says why.",
      el("button", { type: "button", class: "button", onclick: () => location.reload() }, "Try again"))));
  }
}

let isOffline = false;
let mustReload = false; // after a module failed to load: browsers retry it only on a page reload

async function isReachable() {
  try {
    return (await fetch("/healthz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** Shows a banner until the service answers again, then draws the view again. */
async function watch() {
  if (isOffline) return;
  isOffline = true;
  const banner = document.getElementById("banner");
  const retry = el("button", { type: "button", class: "button" }, "Try now");
  fill(banner, el("span", {}, "The service does not answer. Look at its log, or restart it. This page reconnects by itself."), retry);
  banner.hidden = false;
  while (isOffline) {
    await Promise.race([pause(3_000), new Promise((resolve) => retry.addEventListener("click", resolve, { once: true }))]);
    isOffline = !(await isReachable());
  }
  banner.hidden = true;
  if (mustReload) location.reload();
  else go();
}

function startTheme(button) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const update = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    window.dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("userbert-theme", next);
    } catch { /* storage may be off: the theme is then chosen for this page only */ }
    update();
  });
  dark.addEventListener("change", update);
  update();
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
// Preload the other views.
for (const view of Object.keys(TITLES)) import(`./views/${view}.js`).catch(() => {});
