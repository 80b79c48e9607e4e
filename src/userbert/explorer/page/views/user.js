// View "User": one user's words in the order of time, what models say of them, and who is near.
// In: GET /v1/users/ID. Out: a timeline; words open into what a model expects there (expected.js);
// scores and the words that moved them (scores.js); the nearest users.

import { call, show } from "../api.js";
import { axis, chart, tooltip } from "../charts.js";
import { bar, card, el, empty, fill, select, userLink } from "../dom.js";
import { count, dayName, instant, many, number, plain } from "../format.js";
import { models } from "../models.js";
import { expectation } from "./expected.js";
import { scores } from "./scores.js";

const FIRST_SHOWN = 40; // words
const EXAMPLES = 24; // users
const CHIPS = 5; // values of an attribute, until a word is opened
const NO_DATA = () => empty("No data are served", "Start the service with --data and a folder of prepared data.");

export async function draw(host, { what, query, signal }) {
  if (!what) return choose(host, signal);
  const path = `/v1/users/${encodeURIComponent(what)}`;
  const ask = async () => {
    const [user, all] = await Promise.all([call(path, { query: { k: 10, cutoff: query.get("cutoff") }, signal }), models(signal)]);
    return { user: { ...user, asked: query.get("cutoff") }, zone: all[0].timezone };
  };
  return show(host, ask, ({ user, zone }) => page(host, user, zone, query, signal), {
    signal, lines: 12,
    onError: (error) => error.status === 404 && fill(host, el("h1", {}, what), error.message.includes("--data") ? NO_DATA() : empty("Nobody by this id",
      "Ids are matched letter by letter. The search above lists those that hold what one types.", el("a", { class: "button", href: "#/user" }, "See some users"))),
  });
}

function choose(host, signal) {
  const list = el("div", {});
  fill(host, el("div", { class: "heading" }, el("h1", {}, "Look at a user"), el("p", { class: "note" }, "Type an id in the search above (press /), or begin with one of these.")), list);
  const some = async () => call("/v1/map", { query: { model: (await models(signal))[0].name }, signal });
  return show(list, some, ({ user_ids: ids }) => fill(list,
    ids.length ? el("ul", { class: "people" }, ids.slice(0, EXAMPLES).map((id) => el("li", {}, userLink(id))))
      : empty("No users here", "The data hold no user with a vector.")), {
    signal,
    onError: (error) => error.status === 404 && fill(list, NO_DATA()),
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
      el("p", { class: "note" }, words.length ? `${many(user.words.length, "word")} of ${many(actions, "action")}, as seen just before ${instant(user.cutoff, zone)}` : `Looked at just before ${instant(user.cutoff, zone)}`),
      names.length > 1 && el("div", { class: "tools" }, select("Model", names.map((name) => [name, name]), model, (name) => {
        location.hash = `#/user/${encodeURIComponent(user.user_id)}?${new URLSearchParams({ ...Object.fromEntries(query), model: name })}`;
      }))),
    el("div", { class: "with-side" },
      el("div", {},
        card("Timeline", { note: words.length ? "Each bar is a word: what was done in a day or a session. Choose a word to see what the model expects in its place." : "" },
          words.length ? strip : null, words.length ? list : empty("No words", "This user did nothing that a segment counts before this time."))),
      side));
  const opened = { row: null };
  const context = { user, model, signal, opened, wanted: query.get("word") };
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
    tooltip: tooltip(c, { formatter: ({ data }) => `${dayName(data.begins.slice(0, 10))}\n${many(data.value[1], "action")}` }),
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

/** Words under their days, the newest first; the older ones on demand. */
function timeline(list, order, context) {
  const segments = [...new Set(context.user.words.map((word) => word.segment))];
  const wanted = order.findIndex((word) => key(word) === context.wanted);
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
  add(Math.max(FIRST_SHOWN, wanted + 10));
  if (wanted >= 0) open(list, order, context.wanted, context);
}

function open(list, order, wanted, context) {
  context.reveal?.(order.findIndex((word) => key(word) === wanted));
  const row = [...list.querySelectorAll(".word")].find((one) => one.dataset.key === wanted);
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
  el("span", { class: "num" }, many(word.actions, "action")));
  const chips = el("div", { class: "chips" }, summary(word.values));
  const made = el("div", { class: "word" }, button, chips, body);
  made.dataset.key = key(word);
  let ending = null;
  const toggle = () => {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    if (!isOpen && context.opened.row && context.opened.row !== made) context.opened.row.querySelector("button").click();
    context.opened.row = isOpen ? null : made;
    button.setAttribute("aria-expanded", String(!isOpen));
    made.classList.toggle("open", !isOpen);
    body.hidden = isOpen;
    ending?.abort();
    ending = null;
    if (isOpen) fill(body);
    else {
      ending = new AbortController();
      expectation(body, context.user, word, context.model, AbortSignal.any([ending.signal, context.signal]));
    }
  };
  return made;
}

/** The values of a word: an attribute a line, but for those of one value, which share the last. */
function summary(values) {
  const all = Object.entries(values).filter(([, found]) => found.length);
  const single = all.filter(([, found]) => found.length === 1);
  return [
    ...all.filter(([, found]) => found.length > 1).map(([name, found]) => line(plain(name), [
      ...found.slice(0, CHIPS).map(([value, times]) => el("span", { class: "chip", title: value }, value, times > 1 && el("b", {}, ` ×${count(times)}`))),
      found.length > CHIPS && el("span", { class: "chip more" }, `+${count(found.length - CHIPS)}`),
    ])),
    single.length > 0 && line("all", single.map(([name, [[value]]]) => el("span", { class: "chip", title: `${plain(name)}: ${value}` }, el("b", {}, `${plain(name)} `), value))),
  ];
}

const line = (name, chips) => el("div", { class: "chip-row" }, el("span", { class: "chip-name" }, name), el("span", { class: "chip-list" }, chips));

function sideCards(side, user, model, signal) {
  const said = user.models[model];
  const told = said && (said.score !== undefined && said.score !== null || said.values);
  if (told) side.append(scores(user, model, said, signal));
  const fields = Object.entries(user.profile);
  side.append(card("Profile", {}, fields.length
    ? el("dl", { class: "pairs" }, fields.map(([name, value]) => el("div", {}, el("dt", {}, plain(name)), el("dd", {}, value))))
    : el("p", { class: "note" }, "Nothing is known but what was done.")));
  if (said) side.append(nearest(user, model, said, signal));
}

function nearest(user, model, said, signal) {
  if (said.neighbours === null) return card("Nearest users", {}, el("p", { class: "note" }, "Not all users are embedded yet. Look again in a while."));
  if (!said.neighbours.length) return card("Nearest users", {}, el("p", { class: "note" }, "There is nobody else."));
  return card("Nearest users", { note: `By the cosine of their vectors (${model}).` }, el("ol", { class: "near" }, said.neighbours.map((one) => {
    const why = el("div", { class: "why", hidden: true });
    const button = el("button", {
      type: "button", class: "link", "aria-expanded": "false", "aria-label": `Why ${one.user_id}?`,
      onclick: () => {
        why.hidden = !why.hidden;
        button.setAttribute("aria-expanded", String(!why.hidden));
        if (why.hidden || why.childElementCount) return;
        show(why, () => call("/v1/shared", { query: { user_id: user.user_id, other: one.user_id, cutoff: user.asked }, signal }), ({ traits }) => fill(why, shared(traits)), { signal, lines: 3 });
      },
    }, "why?");
    return el("li", {}, el("div", { class: "near-row" }, userLink(one.user_id, `?model=${encodeURIComponent(model)}`), bar(Math.max(0, one.cosine)), el("span", { class: "num" }, number(one.cosine, 2)), button), why);
  })));
}

function shared(traits) {
  if (!traits.length) return el("p", { class: "note" }, "They share no value; the model sees likeness in the pattern.");
  return el("table", { class: "small" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Both have"), el("th", { scope: "col", class: "num" }, "here"), el("th", { scope: "col", class: "num" }, "there"), el("th", { scope: "col", class: "num" }, "of all"))),
    el("tbody", {}, traits.slice(0, 8).map((one) => el("tr", {},
      el("th", { scope: "row", title: `${plain(one.attribute)} in ${plain(one.place)}` }, one.value, el("small", {}, plain(one.attribute))),
      el("td", { class: "num" }, number(one.own)), el("td", { class: "num" }, number(one.other)), el("td", { class: "num" }, `${number(one.share_of_all * 100, 2)} %`)))));
}
