// Search field of the header: lists matching ids while the user types; arrows and Enter choose one.
// In: a part of an id. Out: the address of a user.

import { call } from "./api.js";
import { el, fill } from "./dom.js";

const PAUSE = 120; // milliseconds without a key before a search starts

export function startSearch(field, list) {
  let running = null, timer = null, active = -1;
  const close = () => {
    list.hidden = true;
    active = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const open = (id) => {
    running?.abort();
    clearTimeout(timer);
    close();
    field.value = "";
    field.blur();
    location.hash = `#/user/${encodeURIComponent(id)}`;
  };
  const showMessage = (text) => {
    fill(list, el("li", { class: "told", role: "option", "aria-disabled": "true" }, text));
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
  };
  const search = async () => {
    running?.abort();
    const text = field.value.trim();
    if (!text) return close();
    running = new AbortController();
    const { signal } = running;
    const slow = setTimeout(() => showMessage("Still searching …"), 600);
    try {
      const matches = await call("/v1/find", { query: { text, limit: 12 }, signal });
      clearTimeout(slow);
      active = -1;
      if (!matches.users.length) return showMessage("No user id contains this text.");
      fill(list,
        matches.users.map((id, place) => el("li", {
          role: "option", id: `found-${place}`, "aria-selected": "false",
          onpointerdown: (event) => { event.preventDefault(); open(id); },
        }, id)),
        matches.more && el("li", { class: "told", role: "option", "aria-disabled": "true" }, "There are more matches: keep typing"));
      list.hidden = false;
      field.setAttribute("aria-expanded", "true");
    } catch (error) {
      clearTimeout(slow);
      if (error.name !== "AbortError") showMessage(error.message);
    }
    return undefined;
  };
  const move = (step) => {
    const options = [...list.querySelectorAll("[role=option]:not(.told)")];
    if (!options.length) return;
    active = (active + step + options.length + (active < 0 && step < 0 ? 1 : 0)) % options.length;
    options.forEach((option, place) => option.setAttribute("aria-selected", String(place === active)));
    options[active].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", options[active].id);
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, PAUSE);
  });
  field.addEventListener("focus", () => field.value && search());
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter") {
      const chosen = list.querySelector("[aria-selected=true]");
      const text = chosen?.textContent ?? field.value.trim();
      if (text) open(text);
    } else if (event.key === "Escape") {
      if (list.hidden) field.blur();
      close();
    }
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, textarea, select, dialog");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      field.focus();
    }
  });
}
