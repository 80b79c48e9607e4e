// Users that one view hands to another: those chosen on the map become seeds of a list.
// In: ids. Out: the same, once.

let held = null;

export function give(ids) {
  held = ids;
  location.hash = "#/lookalike";
}

export function take() {
  const given = held;
  held = null;
  return given;
}
