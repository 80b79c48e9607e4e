// Passes user ids from the map to the look-alike view, where they become the seeds.
// In: ids. Out: the ids, to the first caller only.

let pending = null;

export function useAsSeeds(ids) {
  pending = ids;
  location.hash = "#/lookalike";
}

export function takeSeeds() {
  const ids = pending;
  pending = null;
  return ids;
}
