// View "Look-alikes": a ranked list of the users who are most similar to seeds.
// In: ids that are typed, from a file or from the map; POST /v1/lookalike. Out: recall of held-out
// seeds, the list, and the traits of the listed users.

import { call, sentence, show } from "../api.js";
import { card, csv, download, el, empty, fill, select, userLink } from "../dom.js";
import { count, number, plural, times } from "../format.js";
import { modelName, models, modelSelect } from "../models.js";
import { takeSeeds } from "../seeds.js";
import { IdsField } from "./ids_field.js";
import { traits } from "./traits.js";

const WAYS = [["linear", "linear: by what separates seeds from others"], ["centroid", "centroid: near the seeds' mean"], ["nearest", "nearest: near any seed"]];
const LISTED = 100;

export async function draw(host, { query, signal }) {
  await show(host, () => models(signal), (all) => page(host, all, modelName(all, query.get("model")), signal), { signal, lines: 8 });
}

function page(host, all, first, signal) {
  const state = { model: first, by: "linear" };
  const seeds = new IdsField("Seeds", "One user id per line, or CSV with a column user_id", { rows: 8, most: 100_000 });
  const exclude = new IdsField("Leave out", "Users who must not be in the list, such as present customers or people who opted out", { rows: 3, most: 1_000_000 });
  const k = el("input", { type: "number", min: "1", max: "100000", value: "100", id: "k", inputmode: "numeric" });
  const message = el("p", { class: "error", role: "alert" });
  const results = el("div", { class: "results" });
  fill(results, card(null, {}, empty("No list yet", "Enter some users of one kind, such as buyers or subscribers. With ten or more, the list can be tested.")));
  const form = el("form", {
    class: "card seeds-form",
    onsubmit: (event) => {
      event.preventDefault();
      const wrong = seeds.fault || exclude.fault || (!seeds.ids.length && "Enter at least one seed.")
        || (!(k.valueAsNumber >= 1 && k.valueAsNumber <= 100_000) && "Enter a number of users from 1 to 100,000.");
      message.textContent = wrong || "";
      if (wrong) return;
      list(results, { model: state.model, seeds: seeds.ids, exclude: exclude.ids, k: Math.round(k.valueAsNumber), by: state.by }, signal);
    },
  },
  seeds.host, exclude.host,
  el("div", { class: "tools" },
    modelSelect(all, state.model, (name) => { state.model = name; }),
    select("Method", WAYS, state.by, (way) => { state.by = way; }),
    el("label", { class: "choice", for: "k" }, el("span", {}, "Users"), k)),
  message,
  el("button", { type: "submit", class: "button primary" }, "Make the list"));
  fill(host,
    el("div", { class: "heading" }, el("h1", {}, "Look-alikes"), el("p", { class: "note" }, "Users who are most similar to users you know")),
    el("div", { class: "two" }, form, results));
  const fromMap = takeSeeds();
  if (fromMap) {
    seeds.set(fromMap, `${plural(fromMap.length, "user")} from the map`);
    form.requestSubmit();
  }
}

let running = null;

function list(host, body, outer) {
  running?.abort();
  running = new AbortController();
  const signal = AbortSignal.any([running.signal, outer]);
  return show(host, () => call("/v1/lookalike", { body, signal }), (answer) => {
    const excludedSeeds = body.exclude.length ? body.seeds.filter(Set.prototype.has, new Set(body.exclude)).length : 0;
    const common = el("div", {});
    fill(host, quality(answer, body, excludedSeeds, (by) => list(host, { ...body, by }, outer)), ranking(answer), answer.users.length > 0 && card("In common", { note: "Values that users in the list have more often than other users." }, common));
    if (answer.users.length) traits(common, answer.users.map((user) => user.user_id), signal);
  }, {
    signal, lines: 10,
    onError: (error) => error.status === 422 && fill(host, card(null, {}, empty("No list could be made", sentence(error.message)))),
  });
}

/** Card with the list's test on held-out seeds, and the seeds that could not be used. */
function quality(answer, body, excludedSeeds, makeList) {
  const lines = answer.held_out.map((test) => el("li", {},
    el("b", {}, `${number(test.found, 3)} of ${count(test.seeds)} `), `by “${test.way}”`,
    test.by_chance > 0 ? `, ${times(test.found / test.by_chance)} as many as by chance` : "",
    test.way === answer.by ? " (this list)" : ""));
  const unknown = answer.unknown;
  const gain = (test) => test.found / Math.max(test.by_chance, 1e-9);
  const best = Math.max(...answer.held_out.map(gain));
  const own = answer.held_out.find((test) => test.way === answer.by);
  const better = best >= 1.5 && own ? answer.held_out.find((test) => gain(test) === best && gain(test) > 1.2 * gain(own)) : null;
  return card("Test on held-out seeds", {},
    lines.length
      ? el("div", {}, el("p", { class: "note" }, "Number of held-out seeds in five test lists, each made without a fifth of the seeds:"), el("ul", { class: "worth" }, lines),
        best < 1.5 && el("p", { class: "warn note" }, "No list is much better than chance: the vectors do not show what these seeds have in common."),
        better && el("p", {}, el("button", { type: "button", class: "button", onclick: () => makeList(better.way) }, `Make the list by “${better.way}”`)))
      : el("p", { class: "note" }, "Fewer than ten seeds have a vector: too few to test the list."),
    unknown.length > 0 && el("details", {}, el("summary", {}, `${plural(unknown.length, "seed has", "seeds have")} no vector`),
      el("p", { class: "note" }, unknown.slice(0, 50).join(", "), unknown.length > 50 ? `, and ${count(unknown.length - 50)} more` : "")),
    el("p", { class: "note" }, `${plural(answer.seeds, "seed")}, ${plural(answer.others, "user")} to choose from`,
      body.exclude.length ? `; ${count(body.exclude.length)} left out${excludedSeeds ? `, including ${plural(excludedSeeds, "seed")}` : ""}` : "", "."));
}

function ranking({ users, model }) {
  if (!users.length) return card("The list", {}, empty("The list is empty", "All users are seeds or are left out."));
  const body = el("tbody", {});
  let shown = 0;
  const more = el("button", { type: "button", class: "button", onclick: () => add() });
  const add = () => {
    body.append(...users.slice(shown, shown + LISTED).map((user) => el("tr", {},
      el("td", { class: "num muted" }, count(user.rank)), el("td", {}, userLink(user.user_id, `?model=${encodeURIComponent(model)}`)), el("td", { class: "num" }, number(user.score)))));
    shown = Math.min(shown + LISTED, users.length);
    more.textContent = `Show more of ${count(users.length - shown)}`;
    more.hidden = shown >= users.length;
  };
  add();
  const save = el("button", { type: "button", class: "button", onclick: () => download("list.csv", csv([["user_id", "score", "rank"], ...users.map((user) => [user.user_id, user.score, user.rank])])) }, "Download CSV");
  return card(`The list: ${plural(users.length, "user")}`, { tools: save },
    el("div", { class: "scroll list", tabindex: "0", role: "region", "aria-label": "The list" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "num" }, "Rank"), el("th", { scope: "col" }, "User"), el("th", { scope: "col", class: "num" }, "Score"))), body), more));
}
