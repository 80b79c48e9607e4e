// Cards next to the map about the chosen users: their traits, their ids, and buttons to use or export them.
// In: indices of points on the map. Out: cards.

import { call, show } from "../api.js";
import { card, csv, download, el, fill, userLink } from "../dom.js";
import { count, dayName, plain, plural } from "../format.js";
import { useAsSeeds } from "../seeds.js";
import { traits } from "./traits.js";

const LISTED = 60;

export class Selection {
  constructor(host, map, model, signal, onchange) {
    Object.assign(this, { host, map, model, signal, onchange, running: null });
    this.clear(false);
  }

  clear(notify = true) {
    this.running?.abort();
    fill(this.host, card("How to read the map", {},
      el("p", { class: "note" }, "Users with similar vectors are close together. The distance between two groups means little."),
      el("ul", { class: "how note" },
        el("li", {}, "Draw around users with Lasso or Box to see what the users have in common."),
        el("li", {}, "Use “choose” in the legend to select all users with a value."),
        el("li", {}, "Click a point to see the user."),
        el("li", {}, "Scroll to zoom, drag to move."))));
    if (notify) this.onchange(new Uint32Array());
  }

  /** Shows a group of users, given as indices; `way` is "drawn" or the value that the users have. */
  of(places, way) {
    this.running?.abort();
    this.running = new AbortController();
    const signal = AbortSignal.any([this.running.signal, this.signal]);
    this.onchange(places);
    const ids = Array.from(places, (place) => this.map.user_ids[place]);
    if (!ids.length) {
      fill(this.host, card("No users chosen", { note: "No visible user is inside the shape. Draw around some points." }));
      return;
    }
    const common = el("div", {});
    fill(this.host,
      card(`${plural(ids.length, "user")} chosen`, { note: way === "drawn" ? "" : way, className: "choice-card" },
        el("div", { class: "tools" },
          el("button", { type: "button", class: "button primary", onclick: () => useAsSeeds(ids) }, "Use as seeds"),
          el("button", { type: "button", class: "button", onclick: () => download("users.csv", csv([["user_id"], ...ids.map((id) => [id])])) }, "Export CSV"))),
      card("In common", {}, common),
      card("Users", {}, el("ul", { class: "ids" }, ids.slice(0, LISTED).map((id) => el("li", {}, userLink(id, `?model=${encodeURIComponent(this.model)}`)))),
        ids.length > LISTED && el("p", { class: "note" }, `and ${count(ids.length - LISTED)} more: export them as CSV`)));
    traits(common, ids, signal);
  }

  /** Shows the user at an index, with a caption. */
  user(place, caption) {
    this.running?.abort();
    this.running = new AbortController();
    const signal = AbortSignal.any([this.running.signal, this.signal]);
    this.onchange(Uint32Array.of(place));
    const id = this.map.user_ids[place];
    const body = el("div", {});
    fill(this.host, card(id, { note: caption, className: "id" }, body,
      el("a", { class: "button primary", href: `#/user/${encodeURIComponent(id)}?model=${encodeURIComponent(this.model)}` }, "Open this user")));
    show(body, () => call(`/v1/users/${encodeURIComponent(id)}`, { query: { k: 0, model: this.model }, signal }), (user) => fill(body, summary(user)), { signal, lines: 4 });
  }
}

function summary({ words, profile }) {
  const pairs = [
    ["words", count(words.length)],
    ["actions", count(words.reduce((sum, word) => sum + word.actions, 0))],
    ...(words.length ? [["last", dayName(words.map((word) => word.begins).sort().at(-1).slice(0, 10))]] : []),
    ...Object.entries(profile).map(([name, value]) => [plain(name), value]),
  ];
  return el("dl", { class: "pairs" }, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
