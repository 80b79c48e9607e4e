// Colours of the map, as groups of points: a group per value, or per range of numbers.
// In: the answer of /v1/map/colour. Out: groups of points, each with a name and a colour; a legend.

import { colours } from "../charts.js";
import { el } from "../dom.js";
import { count, number } from "../format.js";

const STEPS = 7;
const UNKNOWN = "unknown";

/** Groups users as [{name, places: indices of users, hue: function from colours to the group's colour}], without empty groups. */
export function grouped(colour, users) {
  return colour.kind === "category" ? byValue(colour, users) : byNumber(colour, users);
}

function collect(codes, groups, users) {
  const sizes = new Uint32Array(groups);
  for (let i = 0; i < users; i++) sizes[codes[i]]++;
  const places = Array.from(sizes, (size) => new Uint32Array(size));
  const filled = new Uint32Array(groups);
  for (let i = 0; i < users; i++) places[codes[i]][filled[codes[i]]++] = i;
  return places;
}

function byValue({ values, codes }, users) {
  const last = values.length;
  const places = collect(codes.map((code) => (code < 0 ? last : code)), last + 1, users);
  const hue = (name, i) => (name === UNKNOWN || name === "(others)" ? (c) => c.line : (c) => c.hues[i % c.hues.length]);
  return places.map((some, i) => {
    const name = i === last ? UNKNOWN : values[i];
    return { name, places: some, hue: i === last ? (c) => mix(c.line, c.muted, 0.3) : hue(name, i) };
  }).filter((group) => group.places.length);
}

/** Splits numbers into ranges of about equally many users, since most numbers have a long tail. */
function byNumber({ numbers }, users) {
  const known = numbers.filter((value) => value !== null).sort((a, b) => a - b);
  const edges = [...new Set(Array.from({ length: STEPS }, (_, i) => known[Math.floor((i * known.length) / STEPS)]))];
  const codes = numbers.map((value) => {
    if (value === null) return edges.length;
    let code = edges.length - 1;
    while (code > 0 && value < edges[code]) code--;
    return code;
  });
  const most = known.at(-1);
  return collect(codes, edges.length + 1, users).map((places, i) => {
    if (i === edges.length) return { name: UNKNOWN, places, hue: (c) => c.line };
    const high = i + 1 < edges.length ? edges[i + 1] : most;
    const name = edges[i] === high ? number(high) : `${number(edges[i])} to ${number(high)}`;
    const part = edges.length > 1 ? i / (edges.length - 1) : 1;
    return { name, places, hue: (c) => ramp(c, part) };
  }).filter((group) => group.places.length);
}

const ramp = (c, part) => (part < 0.5 ? mix(mix(c.line, c.muted, 0.45), c["hue-2"], part * 2) : mix(c["hue-2"], c.accent, part * 2 - 1));

function mix(from, to, part) {
  const [a, b] = [from, to].map((text) => text.match(/[\d.]+/g).map(Number));
  return `rgb(${[0, 1, 2].map((i) => Math.round(a[i] + (b[i] - a[i]) * part)).join(",")})`;
}

/** Returns one row per group: a check box that shows the group, its size, and a button that chooses its users. */
export function legend(groups, { onshown, onchosen }) {
  const c = colours();
  const swatches = groups.map((group) => el("i", { class: "swatch", style: { background: group.hue(c) } }));
  window.addEventListener("themechange", () => {
    const now = colours();
    swatches.forEach((swatch, i) => swatch.style.setProperty("background", groups[i].hue(now)));
  });
  return el("ul", {}, groups.map((group, i) => el("li", {},
    el("label", {},
      el("input", { type: "checkbox", checked: true, onchange: (event) => onshown(group.name, event.target.checked) }),
      swatches[i], el("span", { class: "label" }, group.name), el("span", { class: "num muted" }, count(group.places.length))),
    el("button", { type: "button", class: "link", "aria-label": `Choose the users of ${group.name}`, onclick: () => onchosen(group) }, "choose"))));
}
