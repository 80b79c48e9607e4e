// What some users have in common, against all others.
// In: ids, POST /v1/traits. Out: values by strength, with their shares here and elsewhere.

import { call, show } from "../api.js";
import { bar, el, fill } from "../dom.js";
import { count, many, plain, share, times } from "../format.js";

const SHOWN = 12;

export function traits(host, ids, model, signal) {
  const ask = () => call("/v1/traits", { body: { users: ids, model }, signal });
  return show(host, ask, (found) => fill(host, table(found)), { signal, lines: 6 });
}

function table({ users, unknown, others, traits: found }) {
  const missing = unknown?.length ?? unknown ?? 0;
  const told = missing > 0 && el("p", { class: "note" }, `${many(missing, "user")} of these the data do not know.`);
  if (!found.length) {
    return [el("p", { class: "note" }, `Nothing sets ${users === 1 ? "this user" : `these ${count(users)} users`} apart from the other ${count(others)}.`), told];
  }
  const list = el("ol", { class: "traits" });
  const more = el("button", { type: "button", class: "button", onclick: () => { add(found.slice(SHOWN)); more.remove(); } }, `Show ${found.length - SHOWN} more`);
  const add = (some) => list.append(...some.map((one) => el("li", {},
    el("span", { class: "label", title: `${plain(one.attribute)} in ${plain(one.place)}` }, one.value, el("small", {}, `${plain(one.attribute)} · ${plain(one.place)}`)),
    el("span", { class: "pair" }, bar(one.share), bar(one.share_of_others, { tone: "dim" })),
    el("span", { class: "num" }, share(one.share), el("small", {}, share(one.share_of_others))),
    el("span", { class: "num lift" }, one.lift === null ? "only here" : times(one.lift)))));
  add(found.slice(0, SHOWN));
  return [
    el("p", { class: "key note" }, el("i", { class: "swatch" }), `of these ${count(users)}`, el("i", { class: "swatch dim" }), `of the other ${count(others)}`),
    list, found.length > SHOWN && more, told,
  ];
}
