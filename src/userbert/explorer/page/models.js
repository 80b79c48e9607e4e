// Chooses the model that a view shows.
// In: GET /v1/models, a name in the address. Out: a name, and a drop-down list if there are several models.

import { call } from "./api.js";
import { select } from "./dom.js";

let cache = null;

/** Lists the loaded models, which do not change while the service runs. */
export async function models(signal) {
  cache ??= (await call("/v1/models", { signal })).models;
  return cache;
}

/** Returns `name` if it is the name of a model, else the name of the first model. */
export function modelName(all, name) {
  return all.some((model) => model.name === name) ? name : all[0].name;
}

export function modelSelect(all, name, onchange) {
  return all.length > 1 ? select("Model", all.map((model) => [model.name, model.name]), name, onchange) : null;
}

window.addEventListener("unreachable", () => { cache = null; });
