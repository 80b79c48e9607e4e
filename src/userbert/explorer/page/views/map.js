// View "Map": users as points; users with similar vectors are close together.
// In: GET /v1/map and /v1/map/colour. Out: a canvas to zoom and pan, a legend, and the traits of the
// users chosen by a lasso, a box or a value of the legend (map_choice.js).

import { call, pause, show } from "../api.js";
import { preload } from "../charts.js";
import { card, el, empty, fill, select } from "../dom.js";
import { count } from "../format.js";
import { modelName, models, modelSelect } from "../models.js";
import { Selection } from "./map_choice.js";
import { grouped, legend } from "./map_colours.js";
import { Points } from "./map_points.js";

const POLL_INTERVAL = 10_000; // milliseconds between checks for a better layout

export async function draw(host, { query, signal }) {
  preload();
  await show(host, async () => {
    const all = await models(signal);
    const model = modelName(all, query.get("model"));
    return { all, model, map: await call("/v1/map", { query: { model }, signal }) };
  }, (answer) => page(host, answer, query, signal), {
    signal, lines: 10,
    onError: (error) => error.status === 404 && fill(host, el("h1", {}, "Map"), empty("No data", "Start the service with --data and a folder of prepared data to see the users.")),
  });
}

async function page(host, { all, model, map }, query, signal) {
  if (!map.shown) return fill(host, el("h1", {}, "Map"), empty("No users here", "The data have no user with a vector."));
  const names = map.colours.map((colour) => colour.name);
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
        modelSelect(all, model, (name) => { location.hash = `#/map?${new URLSearchParams({ model: name, colour: state.colour })}`; }),
        select("Colour", map.colours.map((colour) => [colour.name, colour.title]), state.colour, (name) => {
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
  points.onclicked = (place) => selection.user(place, points.caption(place));
  let running = null;
  async function recolour() {
    running?.abort();
    running = new AbortController();
    const callSignal = AbortSignal.any([signal, running.signal]);
    const shown = map.colours.find((colour) => colour.name === state.colour);
    await show(key, () => call("/v1/map/colour", { query: { model, name: state.colour }, signal: callSignal }), async (colour) => {
      const groups = grouped(colour, map.shown);
      await points.draw(groups, shown.title);
      fill(key, legend(groups, {
        onshown: (name, isShown) => points.show(name, isShown),
        onchosen: (group) => selection.of(group.places, `${shown.title}: ${group.name}`),
      }));
    }, { signal: callSignal, lines: 2 });
  }
  await recolour();
  if (!map.is_final) offerBetter(status, map, signal);
  return undefined;
}

/** Waits for a better layout, then offers it: points must not move while the map is in use. */
async function offerBetter(host, { model, method }, signal) {
  let now = { method, is_final: false };
  try {
    while (now.method === method && !now.is_final) {
      await pause(POLL_INTERVAL, signal);
      now = await call("/v1/map", { query: { model }, signal });
    }
  } catch { return; } // the view was left, or the banner reports the error
  if (now.method === method) return;
  fill(host, "A better layout is ready. ", el("button", { type: "button", class: "button", onclick: () => window.dispatchEvent(new Event("hashchange")) }, "Show it"));
}
