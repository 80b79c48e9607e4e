// View "Map": all users as points, near each other where their vectors are.
// In: GET /v1/map and /v1/map/colour. Out: a canvas to move in, a legend, and what those have in
// common who are chosen: by a lasso, a box, or a value of the legend (map_choice.js).

import { call, pause, show } from "../api.js";
import { ahead } from "../charts.js";
import { card, el, empty, fill, select } from "../dom.js";
import { count } from "../format.js";
import { choice as modelChoice, chosen, models } from "../models.js";
import { Selection } from "./map_choice.js";
import { grouped, legend } from "./map_colours.js";
import { Points } from "./map_points.js";

const LOOKS_EVERY = 10_000; // milliseconds

export async function draw(host, { query, signal }) {
  ahead();
  await show(host, async () => {
    const all = await models(signal);
    const model = chosen(all, query.get("model"));
    return { all, model, map: await call("/v1/map", { query: { model }, signal }) };
  }, (found) => page(host, found, query, signal), {
    signal, lines: 10,
    onError: (error) => error.status === 404 && fill(host, el("h1", {}, "Map"), empty("No data are served", "Start the service with --data and a folder of prepared data to see its users.")),
  });
}

async function page(host, { all, model, map }, query, signal) {
  if (!map.shown) return fill(host, el("h1", {}, "Map"), empty("Nobody to show", "The data hold no user with a vector."));
  const names = map.colours.map((one) => one.name);
  const state = { colour: names.includes(query.get("colour")) ? query.get("colour") : names[0], hidden: new Set() };
  const address = () => `#/map?${new URLSearchParams({ model, colour: state.colour })}`;
  const canvas = el("div", { class: "map-canvas" });
  const key = el("div", { class: "legend" });
  const side = el("div", { class: "side" });
  const tools = el("div", { class: "map-tools", role: "toolbar", "aria-label": "The map" });
  const status = el("div", { class: "note", role: "status" });
  fill(host,
    el("div", { class: "heading" },
      el("h1", {}, "Map"),
      el("p", { class: "note" }, map.shown < map.users ? `${count(map.shown)} of ${count(map.users)} users, at random` : `${count(map.users)} users`),
      el("div", { class: "tools" },
        modelChoice(all, model, (name) => { location.hash = `#/map?${new URLSearchParams({ model: name, colour: state.colour })}`; }),
        select("Colour", map.colours.map((one) => [one.name, one.title]), state.colour, (name) => {
          state.colour = name;
          state.hidden.clear();
          history.replaceState(null, "", address());
          recolour();
        }))),
    el("div", { class: "with-side map-layout" },
      el("section", { class: "card map-card" }, canvas, tools, key, el("p", { class: "note" }, map.note), status),
      side));
  const points = new Points(canvas, map, signal);
  const selection = new Selection(side, map, model, signal, (places) => points.mark(places));
  fill(tools, points.tools(), el("button", { type: "button", class: "button", onclick: () => selection.clear() }, "Clear"));
  points.onchosen = (places) => selection.of(places, "drawn");
  points.onclicked = (place) => selection.user(place, points.told(place));
  let asked = null;
  async function recolour() {
    asked?.abort();
    asked = new AbortController();
    const one = AbortSignal.any([signal, asked.signal]);
    const shown = map.colours.find((colour) => colour.name === state.colour);
    await show(key, () => call("/v1/map/colour", { query: { model, name: state.colour }, signal: one }), async (colour) => {
      const groups = grouped(colour, map.shown);
      await points.draw(groups, shown.title);
      fill(key, legend(groups, {
        onshown: (name, isShown) => points.show(name, isShown),
        onchosen: (group) => selection.of(group.places, `${shown.title}: ${group.name}`),
      }));
    }, { signal: one, lines: 2 });
  }
  await recolour();
  if (!map.is_final) offerBetter(status, map, signal);
  return undefined;
}

/** Look whether a better layout is there. Points do not move under somebody's hand: it is offered. */
async function offerBetter(host, { model, method }, signal) {
  let now = { method, is_final: false };
  try {
    while (now.method === method && !now.is_final) {
      await pause(LOOKS_EVERY, signal);
      now = await call("/v1/map", { query: { model }, signal });
    }
  } catch { return; } // who leaves, or loses the service, is told elsewhere
  if (now.method === method) return;
  fill(host, "A better layout is ready. ", el("button", { type: "button", class: "button", onclick: () => window.dispatchEvent(new Event("hashchange")) }, "Show it"));
}
