// A word that is open: what a model expects in its place, beside what was there.
// In: GET /v1/expected. Out: bars of probability by attribute, with a mark where it is right.

import { call, show } from "../api.js";
import { bar, el, fill } from "../dom.js";
import { count, plain, share } from "../format.js";

export function expectation(host, user, word, model, signal) {
  const query = { user_id: user.user_id, segment: word.segment, number: word.number, model, cutoff: user.asked };
  return show(host, () => call("/v1/expected", { query, signal }), (found) => fill(host, side(found)), {
    signal, lines: 5,
    onError: (error) => error.status === 422 && fill(host, el("p", { class: "note" }, `${error.message}`), whole(word)),
  });
}

function side({ attributes }) {
  return [
    el("p", { class: "note" }, "The word is hidden from the model, which reads all the others and says what it expects here. ",
      el("span", { class: "hit" }, "✓"), " marks what was there."),
    el("div", { class: "expected" }, attributes.map((one) => {
      const most = Math.max(...one.expected.map((guess) => guess.probability), 1e-9);
      const missed = one.there.filter(([value]) => !one.expected.some((guess) => guess.value === value));
      return el("section", {},
        el("h4", {}, plain(one.attribute)),
        el("ol", { class: "bars" }, one.expected.map((guess) => el("li", { class: guess.is_there ? "is-there" : "" },
          el("span", { class: "label", title: guess.value }, guess.value),
          bar(guess.probability / most, { tone: guess.is_there ? "" : "dim" }),
          el("span", { class: "num" }, share(guess.probability)),
          guess.is_there ? el("span", { class: "hit", role: "img", "aria-label": "was there" }, "✓") : el("span", {})))),
        missed.length > 0 && el("p", { class: "missed" }, el("span", { class: "muted" }, "Also there: "),
          missed.slice(0, 12).map(([value, times]) => `${value}${times > 1 ? ` ×${count(times)}` : ""}`).join(" · "),
          missed.length > 12 ? ` · and ${count(missed.length - 12)} more` : ""));
    })),
  ];
}

function whole(word) {
  return el("div", { class: "expected" }, Object.entries(word.values).filter(([, values]) => values.length).map(([name, values]) => el("section", {},
    el("h4", {}, plain(name)),
    el("p", {}, values.map(([value, times]) => `${value}${times > 1 ? ` ×${count(times)}` : ""}`).join(" · ")))));
}
