// Users chosen on the map: what they have in common, who they are, and what to do with them.
// In: places of the map. Out: cards beside it.

import { call, show } from "../api.js";
import { card, csv, download, el, fill, userLink } from "../dom.js";
import { count, dayName, many, plain } from "../format.js";
import { give } from "../seeds.js";
import { traits } from "./traits.js";

const LISTED = 60;

export class Selection {
  constructor(host, map, model, signal, onchange) {
    Object.assign(this, { host, map, model, signal, onchange, asked: null });
    this.clear(false);
  }

  clear(tells = true) {
    this.asked?.abort();
    fill(this.host, card("Who is where?", {},
      el("p", { class: "note" }, "Users whose vectors are alike lie near each other; how far apart two groups are means little."),
      el("ul", { class: "how note" },
        el("li", {}, "Draw around users with Lasso or Box to see what they have in common."),
        el("li", {}, "“choose”, in the legend, takes all users of a value."),
        el("li", {}, "Click a point to see the user."),
        el("li", {}, "Scroll to look closer, drag to move."))));
    if (tells) this.onchange(new Uint32Array());
  }

  /** Show some users, who were chosen in a way. */
  of(places, way) {
    this.asked?.abort();
    this.asked = new AbortController();
    const signal = AbortSignal.any([this.asked.signal, this.signal]);
    this.onchange(places);
    const ids = Array.from(places, (place) => this.map.user_ids[place]);
    if (!ids.length) {
      fill(this.host, card("Nobody chosen", { note: "There is no shown user inside. Draw around some points." }));
      return;
    }
    const common = el("div", {});
    fill(this.host,
      card(`${many(ids.length, "user")} chosen`, { note: way === "drawn" ? "" : way, className: "choice-card" },
        el("div", { class: "tools" },
          el("button", { type: "button", class: "button primary", onclick: () => give(ids) }, "Use as seeds"),
          el("button", { type: "button", class: "button", onclick: () => download("users.csv", csv([["user_id"], ...ids.map((id) => [id])])) }, "Export CSV"))),
      card("In common", {}, common),
      card("Who they are", {}, el("ul", { class: "ids" }, ids.slice(0, LISTED).map((id) => el("li", {}, userLink(id, `?model=${encodeURIComponent(this.model)}`)))),
        ids.length > LISTED && el("p", { class: "note" }, `and ${count(ids.length - LISTED)} more, in the exported file`)));
    traits(common, ids, this.model, signal);
  }

  /** Show one user. */
  user(place, told) {
    this.asked?.abort();
    this.asked = new AbortController();
    const signal = AbortSignal.any([this.asked.signal, this.signal]);
    this.onchange(Uint32Array.of(place));
    const id = this.map.user_ids[place];
    const body = el("div", {});
    fill(this.host, card(id, { note: told, className: "id" }, body,
      el("a", { class: "button primary", href: `#/user/${encodeURIComponent(id)}?model=${encodeURIComponent(this.model)}` }, "See all of this user")));
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
