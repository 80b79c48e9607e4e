// The search in the header: ids as one types, chosen by arrows and Enter.
// In: text. Out: the address of a user.

import { call } from "./api.js";
import { el, fill } from "./dom.js";

const PAUSE = 120; // milliseconds between a key and the question

export function startSearch(field, list) {
  let asked = null, timer = null, active = -1;
  const close = () => {
    list.hidden = true;
    active = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const open = (id) => {
    asked?.abort();
    clearTimeout(timer);
    close();
    field.value = "";
    field.blur();
    location.hash = `#/user/${encodeURIComponent(id)}`;
  };
  const tell = (text) => {
    fill(list, el("li", { class: "told", role: "option", "aria-disabled": "true" }, text));
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
  };
  const look = async () => {
    asked?.abort();
    const text = field.value.trim();
    if (!text) return close();
    asked = new AbortController();
    const { signal } = asked;
    const slow = setTimeout(() => tell("Still looking …"), 600);
    try {
      const found = await call("/v1/find", { query: { text, limit: 12 }, signal });
      clearTimeout(slow);
      active = -1;
      if (!found.users.length) return tell("No user's id holds this.");
      fill(list,
        found.users.map((id, place) => el("li", {
          role: "option", id: `found-${place}`, "aria-selected": "false",
          onpointerdown: (event) => { event.preventDefault(); open(id); },
        }, id)),
        found.more && el("li", { class: "told", role: "option", "aria-disabled": "true" }, "More: type on"));
      list.hidden = false;
      field.setAttribute("aria-expanded", "true");
    } catch (error) {
      clearTimeout(slow);
      if (error.name !== "AbortError") tell(error.message);
    }
    return undefined;
  };
  const move = (step) => {
    const options = [...list.querySelectorAll("[role=option]:not(.told)")];
    if (!options.length) return;
    active = (active + step + options.length + (active < 0 && step < 0 ? 1 : 0)) % options.length;
    options.forEach((one, place) => one.setAttribute("aria-selected", String(place === active)));
    options[active].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", options[active].id);
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE);
  });
  field.addEventListener("focus", () => field.value && look());
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
