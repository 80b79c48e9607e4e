// View "Look-alikes": seeds in, a ranked list of others out.
// In: ids, typed, from a file, or handed over by the map; POST /v1/lookalike. Out: how well such lists
// find seeds that they were not told, the list, what those on it have in common.

import { call, sentence, show } from "../api.js";
import { card, csv, download, el, empty, fill, select, userLink } from "../dom.js";
import { count, many, number, times } from "../format.js";
import { choice as modelChoice, chosen, models } from "../models.js";
import { take } from "../seeds.js";
import { IdsField } from "./ids_field.js";
import { traits } from "./traits.js";

const WAYS = [["linear", "linear: by what they share"], ["centroid", "centroid: near their middle"], ["nearest", "nearest: near any of them"]];
const LISTED = 100;

export async function draw(host, { query, signal }) {
  await show(host, () => models(signal), (all) => page(host, all, chosen(all, query.get("model")), signal), { signal, lines: 8 });
}

function page(host, all, first, signal) {
  const state = { model: first, by: "linear" };
  const seeds = new IdsField("Seeds", "One user id a line, or a CSV with a column user_id", { rows: 8, most: 100_000 });
  const exclude = new IdsField("Leave out", "Those who must not be listed: customers already, or who asked not to be written to", { rows: 3, most: 1_000_000 });
  const k = el("input", { type: "number", min: "1", max: "100000", value: "100", id: "k", inputmode: "numeric" });
  const told = el("p", { class: "error", role: "alert" });
  const results = el("div", { class: "results" });
  fill(results, card(null, {}, empty("No list yet", "Give some users of a kind, such as buyers or subscribers. Ten or more, so that the list can be tried on them.")));
  const form = el("form", {
    class: "card seeds-form",
    onsubmit: (event) => {
      event.preventDefault();
      const wrong = seeds.fault || exclude.fault || (!seeds.ids.length && "Give at least one seed.")
        || (!(k.valueAsNumber >= 1 && k.valueAsNumber <= 100_000) && "A list holds 1 to 100,000 users.");
      told.textContent = wrong || "";
      if (wrong) return;
      list(results, { model: state.model, seeds: seeds.ids, exclude: exclude.ids, k: Math.round(k.valueAsNumber), by: state.by }, signal);
    },
  },
  seeds.host, exclude.host,
  el("div", { class: "tools" },
    modelChoice(all, state.model, (name) => { state.model = name; }),
    select("Way", WAYS, state.by, (way) => { state.by = way; }),
    el("label", { class: "choice", for: "k" }, el("span", {}, "Users"), k)),
  told,
  el("button", { type: "submit", class: "button primary" }, "Make the list"));
  fill(host,
    el("div", { class: "heading" }, el("h1", {}, "Look-alikes"), el("p", { class: "note" }, "Who else is like these users?")),
    el("div", { class: "two" }, form, results));
  const given = take();
  if (given) {
    seeds.set(given, `${many(given.length, "user")} from the map`);
    form.requestSubmit();
  }
}

let running = null;

function list(host, body, outer) {
  running?.abort();
  running = new AbortController();
  const signal = AbortSignal.any([running.signal, outer]);
  return show(host, () => call("/v1/lookalike", { body, signal }), (found) => {
    const both = body.exclude.length ? body.seeds.filter(Set.prototype.has, new Set(body.exclude)).length : 0;
    const common = el("div", {});
    fill(host, worth(found, body, both, (by) => list(host, { ...body, by }, outer)), ranked(found), found.users.length > 0 && card("In common", { note: "Of those on the list, against everybody else." }, common));
    if (found.users.length) traits(common, found.users.map((one) => one.user_id), body.model, signal);
  }, {
    signal, lines: 10,
    onError: (error) => error.status === 422 && fill(host, card(null, {}, empty("No list could be made", sentence(error.message)))),
  });
}

/** What such a list is worth, and what of the seeds could be used. */
function worth(found, body, both, anew) {
  const lines = found.held_out.map((one) => el("li", {},
    el("b", {}, `${number(one.found, 3)} of ${count(one.seeds)} `), `by “${one.way}”`,
    one.by_chance > 0 ? `, ${times(one.found / one.by_chance)} as many as by chance` : "",
    one.way === found.by ? " (this list)" : ""));
  const unknown = found.unknown;
  const gain = (one) => one.found / Math.max(one.by_chance, 1e-9);
  const best = Math.max(...found.held_out.map(gain));
  const own = found.held_out.find((one) => one.way === found.by);
  const better = best >= 1.5 && own ? found.held_out.find((one) => gain(one) === best && gain(one) > 1.2 * gain(own)) : null;
  return card("What is it worth?", {},
    lines.length
      ? el("div", {}, el("p", { class: "note" }, "Five such lists, each made without a fifth of the seeds, find of these:"), el("ul", { class: "worth" }, lines),
        best < 1.5 && el("p", { class: "warn note" }, "That is hardly more than by chance: the vectors know nothing that these seeds have in common."),
        better && el("p", {}, el("button", { type: "button", class: "button", onclick: () => anew(better.way) }, `Make the list by “${better.way}”`)))
      : el("p", { class: "note" }, "Fewer than ten seeds have a vector: too few to try the list on."),
    unknown.length > 0 && el("details", {}, el("summary", {}, `${many(unknown.length, "seed is", "seeds are")} not known here`),
      el("p", { class: "note" }, unknown.slice(0, 50).join(", "), unknown.length > 50 ? `, and ${count(unknown.length - 50)} more` : "")),
    el("p", { class: "note" }, `${many(found.seeds, "seed")}, ${many(found.others, "user")} to choose from`,
      body.exclude.length ? `; ${count(body.exclude.length)} left out${both ? `, of whom ${many(both, "is a seed", "are seeds")}` : ""}` : "", "."));
}

function ranked({ users, model }) {
  if (!users.length) return card("The list", {}, empty("Nobody is left", "All users are seeds, or left out."));
  const body = el("tbody", {});
  let shown = 0;
  const more = el("button", { type: "button", class: "button", onclick: () => add() });
  const add = () => {
    body.append(...users.slice(shown, shown + LISTED).map((one) => el("tr", {},
      el("td", { class: "num muted" }, count(one.rank)), el("td", {}, userLink(one.user_id, `?model=${encodeURIComponent(model)}`)), el("td", { class: "num" }, number(one.score)))));
    shown = Math.min(shown + LISTED, users.length);
    more.textContent = `Show more of ${count(users.length - shown)}`;
    more.hidden = shown >= users.length;
  };
  add();
  const save = el("button", { type: "button", class: "button", onclick: () => download("list.csv", csv([["user_id", "score", "rank"], ...users.map((one) => [one.user_id, one.score, one.rank])])) }, "Download CSV");
  return card(`The list: ${many(users.length, "user")}`, { tools: save },
    el("div", { class: "scroll list", tabindex: "0", role: "region", "aria-label": "The list" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "num" }, "Rank"), el("th", { scope: "col" }, "User"), el("th", { scope: "col", class: "num" }, "Score"))), body), more));
}
