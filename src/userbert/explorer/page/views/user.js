// View "User": a user's words in order of time, scores, profile and nearest users.
// In: GET /v1/users/ID. Out: a timeline whose words open into a model's expectations (expected.js);
// scores and the words that moved them (scores.js); the nearest users.

import { call, show } from "../api.js";
import { axis, chart, tooltip } from "../charts.js";
import { bar, card, el, empty, fill, select, userLink } from "../dom.js";
import { count, dayName, instant, number, plain, plural } from "../format.js";
import { models } from "../models.js";
import { expectation } from "./expected.js";
import { scores } from "./scores.js";

const FIRST_SHOWN = 40; // number of words to show at first
const EXAMPLES = 24; // maximum number of example users
const CHIPS = 5; // maximum number of values to show per attribute
const noData = () => empty("No data", "Start the service with --data and a folder of prepared data.");

export async function draw(host, { item: userId, query, signal }) {
  if (!userId) return examples(host, signal);
  const path = `/v1/users/${encodeURIComponent(userId)}`;
  const request = async () => {
    const [user, all] = await Promise.all([call(path, { query: { k: 10, cutoff: query.get("cutoff") }, signal }), models(signal)]);
    return { user: { ...user, cutoffText: query.get("cutoff") }, zone: all[0].timezone };
  };
  return show(host, request, ({ user, zone }) => page(host, user, zone, query, signal), {
    signal, lines: 12,
    onError: (error) => error.status === 404 && fill(host, el("h1", {}, userId), error.message.includes("--data") ? noData() : empty("No user with this id",
      "Ids must match exactly. The search field above lists the ids that contain a text.", el("a", { class: "button", href: "#/user" }, "See some users"))),
  });
}

function examples(host, signal) {
  const list = el("div", {});
  fill(host, el("div", { class: "heading" }, el("h1", {}, "Look at a user"), el("p", { class: "note" }, "Type an id in the search field above (press /), or start with one of these users.")), list);
  const request = async () => call("/v1/map", { query: { model: (await models(signal))[0].name }, signal });
  return show(list, request, ({ user_ids: ids }) => fill(list,
    ids.length ? el("ul", { class: "people" }, ids.slice(0, EXAMPLES).map((id) => el("li", {}, userLink(id))))
      : empty("No users here", "The data have no user with a vector.")), {
    signal,
    onError: (error) => error.status === 404 && fill(list, noData()),
  });
}

async function page(host, user, zone, query, signal) {
  const names = Object.keys(user.models);
  let model = query.get("model");
  if (!names.includes(model)) [model] = names;
  const strip = el("div", { class: "chart strip" });
  const words = [...user.words].reverse();
  const actions = user.words.reduce((sum, word) => sum + word.actions, 0);
  const span = words.length ? `${dayName(user.words[0].begins.slice(0, 10))} to ${dayName(words[0].begins.slice(0, 10))}` : "";
  const order = [...user.words].sort((a, b) => (a.begins < b.begins ? 1 : -1));
  const list = el("div", { class: "timeline" });
  const side = el("div", { class: "side" });
  fill(host,
    el("div", { class: "heading" },
      el("h1", { class: "id" }, user.user_id),
      el("p", { class: "note" }, words.length ? `${plural(user.words.length, "word")} with ${plural(actions, "action")}, just before ${instant(user.cutoff, zone)}` : `Just before ${instant(user.cutoff, zone)}`),
      names.length > 1 && el("div", { class: "tools" }, select("Model", names.map((name) => [name, name]), model, (name) => {
        location.hash = `#/user/${encodeURIComponent(user.user_id)}?${new URLSearchParams({ ...Object.fromEntries(query), model: name })}`;
      }))),
    el("div", { class: "with-side" },
      el("div", {},
        card("Timeline", { note: words.length ? "Each bar is a word: the actions of one day or session. Choose a word to see what the model expects in its place." : "" },
          words.length ? strip : null, words.length ? list : empty("No words", "No segment has an action of this user before this time."))),
      side));
  const opened = { row: null };
  const context = { user, model, signal, opened, target: query.get("word") };
  if (words.length) timeline(list, order, context);
  sideCards(side, user, model, signal);
  if (!words.length) return;
  const drawn = await chart(strip, (c) => density(c, user.words), { label: `Actions of each word, ${span}`, signal });
  drawn?.on("click", ({ data }) => open(list, order, data.key, context));
}

const key = (word) => `${word.segment}.${word.number}`;
const millis = (begins) => Date.parse(begins.length === 10 ? `${begins}T00:00:00Z` : `${begins.slice(0, 19)}Z`);

function density(c, words) {
  const segments = [...new Set(words.map((word) => word.segment))];
  return {
    color: [c.accent, ...c.hues.slice(1)], useUTC: true,
    grid: { left: 4, right: 8, top: segments.length > 1 ? 28 : 8, bottom: 4, containLabel: true },
    legend: segments.length > 1 ? { top: 0, left: 0, icon: "circle", itemWidth: 8, itemHeight: 8, itemGap: 16, textStyle: { color: c.ink, fontSize: 12 }, formatter: plain } : undefined,
    tooltip: tooltip(c, { formatter: ({ data }) => `${dayName(data.begins.slice(0, 10))}\n${plural(data.value[1], "action")}` }),
    xAxis: axis(c, { type: "time" }),
    yAxis: axis(c, { type: "value", axisLine: { show: false }, splitNumber: 2, minInterval: 1, axisLabel: { showMinLabel: false } }),
    dataZoom: [{ type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false }],
    series: segments.map((name) => ({
      name, type: "bar", barWidth: 5, barGap: "-100%", cursor: "pointer",
      itemStyle: { borderRadius: [2, 2, 0, 0] },
      data: words.filter((word) => word.segment === name).map((word) => ({ value: [millis(word.begins), word.actions], key: key(word), begins: word.begins })),
    })),
  };
}

/** Lists words by day, newest first; adds older words on demand. */
function timeline(list, order, context) {
  const segments = [...new Set(context.user.words.map((word) => word.segment))];
  const target = order.findIndex((word) => key(word) === context.target);
  let shown = 0, last = null;
  const more = el("button", { type: "button", class: "button" });
  const add = (until) => {
    const body = [];
    for (const word of order.slice(shown, until)) {
      const date = word.begins.slice(0, 10);
      if (date !== last) {
        last = date;
        body.push(el("h3", { class: "day" }, dayName(date)));
      }
      body.push(row(word, segments.indexOf(word.segment), context));
    }
    shown = Math.min(until, order.length);
    more.remove();
    list.append(...body);
    if (shown < order.length) {
      more.textContent = `Show ${count(Math.min(100, order.length - shown))} older of ${count(order.length - shown)}`;
      list.append(more);
    }
  };
  more.addEventListener("click", () => add(shown + 100));
  context.reveal = (place) => place >= shown && add(place + 10);
  add(Math.max(FIRST_SHOWN, target + 10));
  if (target >= 0) open(list, order, context.target, context);
}

function open(list, order, target, context) {
  context.reveal?.(order.findIndex((word) => key(word) === target));
  const row = [...list.querySelectorAll(".word")].find((element) => element.dataset.key === target);
  if (!row) return;
  const button = row.querySelector("button");
  if (button.getAttribute("aria-expanded") === "false") button.click();
  row.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function row(word, hue, context) {
  const time = word.begins.slice(11, 16);
  const body = el("div", { class: "word-body", hidden: true });
  const button = el("button", {
    type: "button", class: "word-head", "aria-expanded": "false",
    onclick: () => toggle(),
    onkeydown: (event) => event.key === "Escape" && button.getAttribute("aria-expanded") === "true" && toggle(),
  },
  el("i", { class: `dot segment-${hue % 4}`, "aria-hidden": "true" }),
  el("span", { class: "when" }, time === "00:00" || !time ? "" : time),
  el("span", { class: "segment" }, plain(word.segment)),
  el("span", { class: "num" }, plural(word.actions, "action")));
  const chips = el("div", { class: "chips" }, summary(word.values));
  const element = el("div", { class: "word" }, button, chips, body);
  element.dataset.key = key(word);
  let expecting = null; // controller of the call for the open word
  const toggle = () => {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    if (!isOpen && context.opened.row && context.opened.row !== element) context.opened.row.querySelector("button").click();
    context.opened.row = isOpen ? null : element;
    button.setAttribute("aria-expanded", String(!isOpen));
    element.classList.toggle("open", !isOpen);
    body.hidden = isOpen;
    expecting?.abort();
    expecting = null;
    if (isOpen) fill(body);
    else {
      expecting = new AbortController();
      expectation(body, context.user, word, context.model, AbortSignal.any([expecting.signal, context.signal]));
    }
  };
  return element;
}

/** Values of a word: one line per attribute; attributes with a single value share the last line. */
function summary(values) {
  const all = Object.entries(values).filter(([, pairs]) => pairs.length);
  const single = all.filter(([, pairs]) => pairs.length === 1);
  return [
    ...all.filter(([, pairs]) => pairs.length > 1).map(([name, pairs]) => line(plain(name), [
      ...pairs.slice(0, CHIPS).map(([value, times]) => el("span", { class: "chip", title: value }, value, times > 1 && el("b", {}, ` ×${count(times)}`))),
      pairs.length > CHIPS && el("span", { class: "chip more" }, `+${count(pairs.length - CHIPS)}`),
    ])),
    single.length > 0 && line("all", single.map(([name, [[value]]]) => el("span", { class: "chip", title: `${plain(name)}: ${value}` }, el("b", {}, `${plain(name)} `), value))),
  ];
}

const line = (name, chips) => el("div", { class: "chip-row" }, el("span", { class: "chip-name" }, name), el("span", { class: "chip-list" }, chips));

function sideCards(side, user, model, signal) {
  const answer = user.models[model];
  const hasScore = answer && (answer.score !== undefined && answer.score !== null || answer.values);
  if (hasScore) side.append(scores(user, model, answer, signal));
  const fields = Object.entries(user.profile);
  side.append(card("Profile", {}, fields.length
    ? el("dl", { class: "pairs" }, fields.map(([name, value]) => el("div", {}, el("dt", {}, plain(name)), el("dd", {}, value))))
    : el("p", { class: "note" }, "No profile fields.")));
  if (answer) side.append(nearest(user, model, answer, signal));
}

function nearest(user, model, answer, signal) {
  if (answer.neighbours === null) return card("Nearest users", {}, el("p", { class: "note" }, "Not all users are embedded yet. Open this user again later."));
  if (!answer.neighbours.length) return card("Nearest users", {}, el("p", { class: "note" }, "There are no other users."));
  return card("Nearest users", { note: `By the cosine of their vectors (${model}).` }, el("ol", { class: "near" }, answer.neighbours.map((neighbour) => {
    const why = el("div", { class: "why", hidden: true });
    const button = el("button", {
      type: "button", class: "link", "aria-expanded": "false", "aria-label": `Why ${neighbour.user_id}?`,
      onclick: () => {
        why.hidden = !why.hidden;
        button.setAttribute("aria-expanded", String(!why.hidden));
        if (why.hidden || why.childElementCount) return;
        show(why, () => call("/v1/shared", { query: { user_id: user.user_id, other: neighbour.user_id, cutoff: user.cutoffText }, signal }), ({ traits }) => fill(why, shared(traits)), { signal, lines: 3 });
      },
    }, "why?");
    return el("li", {}, el("div", { class: "near-row" }, userLink(neighbour.user_id, `?model=${encodeURIComponent(model)}`), bar(Math.max(0, neighbour.cosine)), el("span", { class: "num" }, number(neighbour.cosine, 2)), button), why);
  })));
}

function shared(traits) {
  if (!traits.length) return el("p", { class: "note" }, "The two users have no value in common; only the patterns of their actions are similar.");
  return el("table", { class: "small" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Both have"), el("th", { scope: "col", class: "num" }, "This user"), el("th", { scope: "col", class: "num" }, "Other user"), el("th", { scope: "col", class: "num" }, "Share of all"))),
    el("tbody", {}, traits.slice(0, 8).map((trait) => el("tr", {},
      el("th", { scope: "row", title: `${plain(trait.attribute)} in ${plain(trait.place)}` }, trait.value, el("small", {}, plain(trait.attribute))),
      el("td", { class: "num" }, number(trait.own)), el("td", { class: "num" }, number(trait.other)), el("td", { class: "num" }, `${number(trait.share_of_all * 100, 2)} %`)))));
}
