// Which model a view speaks of.
// In: GET /v1/models, the address. Out: a name, and a choice where several serve.

import { call } from "./api.js";
import { select } from "./dom.js";

let known = null;

/** The models that serve; they stay as long as the service runs. */
export async function models(signal) {
  known ??= (await call("/v1/models", { signal })).models;
  return known;
}

export function chosen(all, name) {
  return all.some((one) => one.name === name) ? name : all[0].name;
}

export function choice(all, name, onchange) {
  return all.length > 1 ? select("Model", all.map((one) => [one.name, one.name]), name, onchange) : null;
}

window.addEventListener("unreachable", () => { known = null; });
