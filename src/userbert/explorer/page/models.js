// The model that a view shows.
// In: GET /v1/models, the address. Out: a name, and a drop-down list if there are several models.

import { call } from "./api.js";
import { select } from "./dom.js";

let cache = null;

/** Lists the loaded models, which do not change while the service runs. */
export async function models(signal) {
  cache ??= (await call("/v1/models", { signal })).models;
  return cache;
}

/** Returns a name if a model has it, else the first model's name. */
export function modelName(all, name) {
  return all.some((model) => model.name === name) ? name : all[0].name;
}

export function modelSelect(all, name, onchange) {
  return all.length > 1 ? select("Model", all.map((model) => [model.name, model.name]), name, onchange) : null;
}

window.addEventListener("unreachable", () => { cache = null; });
