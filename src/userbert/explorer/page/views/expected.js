// Contents of an open word: the values that a model expects in the word, compared with its actual values.
// In: GET /v1/expected. Out: bars of probability by attribute, with a mark at each actual value.

import { call, show } from "../api.js";
import { bar, el, fill } from "../dom.js";
import { count, plain, share } from "../format.js";

export function expectation(host, user, word, model, signal) {
  const query = { user_id: user.user_id, segment: word.segment, number: word.number, model, cutoff: user.cutoffText };
  return show(host, () => call("/v1/expected", { query, signal }), (answer) => fill(host, comparison(answer)), {
    signal, lines: 5,
    onError: (error) => error.status === 422 && fill(host, el("p", { class: "note" }, `${error.message}`), allValues(word)),
  });
}

function comparison({ attributes }) {
  return [
    el("p", { class: "note" }, "The model reads the user's other words and predicts the values of this word, which is hidden. ",
      el("span", { class: "hit" }, "✓"), " marks the values in the word."),
    el("div", { class: "expected" }, attributes.map((column) => {
      const most = Math.max(...column.expected.map((guess) => guess.probability), 1e-9);
      const missed = column.there.filter(([value]) => !column.expected.some((guess) => guess.value === value));
      return el("section", {},
        el("h4", {}, plain(column.attribute)),
        el("ol", { class: "bars" }, column.expected.map((guess) => el("li", { class: guess.is_there ? "is-there" : "" },
          el("span", { class: "label", title: guess.value }, guess.value),
          bar(guess.probability / most, { tone: guess.is_there ? "" : "dim" }),
          el("span", { class: "num" }, share(guess.probability)),
          guess.is_there ? el("span", { class: "hit", role: "img", "aria-label": "in the word" }, "✓") : el("span", {})))),
        missed.length > 0 && el("p", { class: "missed" }, el("span", { class: "muted" }, "Also in the word: "),
          missed.slice(0, 12).map(([value, times]) => `${value}${times > 1 ? ` ×${count(times)}` : ""}`).join(" · "),
          missed.length > 12 ? ` · and ${count(missed.length - 12)} more` : ""));
    })),
  ];
}

function allValues(word) {
  return el("div", { class: "expected" }, Object.entries(word.values).filter(([, values]) => values.length).map(([name, values]) => el("section", {},
    el("h4", {}, plain(name)),
    el("p", {}, values.map(([value, times]) => `${value}${times > 1 ? ` ×${count(times)}` : ""}`).join(" · ")))));
}
