// Score of a user by a task, and the words and profile fields that raised or lowered the score.
// In: the answer of /v1/users, GET /v1/explanation. Out: a card with bars to the left and right.

import { call, show } from "../api.js";
import { bar, card, el, fill } from "../dom.js";
import { number, plain, share, signed } from "../format.js";

const SHOWN = 12;

export function scores(user, model, answer, signal) {
  const why = el("div", {});
  const values = answer.values ?? [];
  const head = values.length
    ? el("ol", { class: "bars" }, values.map((value, place) => el("li", {},
      el("button", { type: "button", class: "link label", title: `What moved ${value}`, onclick: () => explain(value) }, value),
      bar(answer.scores[place] / Math.max(...answer.scores, 1e-9)), el("span", { class: "num" }, number(answer.scores[place])))))
    : el("p", { class: "score" }, answer.score >= 0 && answer.score <= 1 ? share(answer.score) : number(answer.score));
  function explain(value) {
    const query = { user_id: user.user_id, model, value, cutoff: user.cutoffText };
    return show(why, () => call("/v1/explanation", { query, signal }), (explanation) => fill(why, effects(explanation, user, model)), {
      signal, lines: 4, onError: (error) => error.status === 422 && fill(why, el("p", { class: "note" }, error.message)),
    });
  }
  explain(values[0]);
  return card(`Score: ${plain(model)}`, {}, head, why);
}

function effects({ unit, value, words, fields }, user, model) {
  const times = new Map(user.words.map((word) => [`${word.segment}.${word.number}`, word.begins]));
  const rows = [
    ...words.map((word) => {
      const key = `${word.segment}.${word.number}`;
      const main = Object.entries(word.attributes).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]))[0]?.[0];
      const link = `#/user/${encodeURIComponent(user.user_id)}?${new URLSearchParams({ model, word: key })}`;
      return { effect: word.effect, name: el("a", { href: link }, (times.get(key) ?? key).slice(0, 16).replace("T", " ").replace(" 00:00", "")), more: main ? `${plain(word.segment)}, by ${plain(main)}` : plain(word.segment) };
    }),
    ...fields.map((field) => ({ effect: field.effect, name: el("span", {}, `${plain(field.name)}: ${field.value}`), more: "profile" })),
  ].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, SHOWN);
  if (!rows.length) return el("p", { class: "note" }, "There is nothing to explain: the user has no words and no profile fields.");
  const most = Math.max(...rows.map((row) => Math.abs(row.effect)), 1e-12);
  return el("div", {},
    el("h3", {}, value ? `What moved “${value}”` : "What moved the score"),
    el("p", { class: "note" }, `${unit ? `In ${unit}. ` : ""}Bars to the right: how much lower the score would be without the word. Bars to the left: how much higher.`),
    el("ol", { class: "effects" }, rows.map((row) => el("li", {},
      el("span", { class: "label" }, row.name, el("small", {}, row.more)),
      el("span", { class: `diverging ${row.effect < 0 ? "down" : "up"}`, "aria-hidden": "true" }, el("i", { style: { "--part": Math.abs(row.effect) / most } })),
      el("span", { class: "num" }, signed(row.effect))))));
}
