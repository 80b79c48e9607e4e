// Values that set a group of users apart from other users.
// In: ids, POST /v1/traits. Out: values by strength, with their shares in the group and outside it.

import { call, show } from "../api.js";
import { bar, el, fill } from "../dom.js";
import { count, plain, plural, share, times } from "../format.js";

const SHOWN = 12;

export function traits(host, ids, signal) {
  const ask = () => call("/v1/traits", { body: { users: ids }, signal });
  return show(host, ask, (answer) => fill(host, table(answer)), { signal, lines: 6 });
}

function table({ users, unknown, others, traits: rows }) {
  const missing = unknown?.length ?? unknown ?? 0;
  const note = missing > 0 && el("p", { class: "note" }, `${plural(missing, "of these users is", "of these users are")} not in the data.`);
  if (!rows.length) {
    return [el("p", { class: "note" }, `No value sets ${users === 1 ? "this user" : `these ${count(users)} users`} apart from the other ${count(others)}.`), note];
  }
  const list = el("ol", { class: "traits" });
  const more = el("button", { type: "button", class: "button", onclick: () => { add(rows.slice(SHOWN)); more.remove(); } }, `Show ${rows.length - SHOWN} more`);
  const add = (added) => list.append(...added.map((trait) => el("li", {},
    el("span", { class: "label", title: `${plain(trait.attribute)} in ${plain(trait.place)}` }, trait.value, el("small", {}, `${plain(trait.attribute)} · ${plain(trait.place)}`)),
    el("span", { class: "pair" }, bar(trait.share), bar(trait.share_of_others, { tone: "dim" })),
    el("span", { class: "num" }, share(trait.share), el("small", {}, share(trait.share_of_others))),
    el("span", { class: "num lift" }, trait.lift === null ? "only here" : times(trait.lift)))));
  add(rows.slice(0, SHOWN));
  return [
    el("p", { class: "key note" }, el("i", { class: "swatch" }), `of these ${count(users)}`, el("i", { class: "swatch dim" }), `of the other ${count(others)}`),
    list, rows.length > SHOWN && more, note,
  ];
}
