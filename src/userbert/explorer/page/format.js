// Formats numbers and times for people.
// In: numbers, shares from 0 to 1, microseconds since 1970. Out: text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => whole.format(value);
export const compact = (value) => (Math.abs(value) < 10_000 ? whole.format(value) : short.format(value));
export const plural = (value, singular, several = `${singular}s`) => `${count(value)} ${value === 1 ? singular : several}`;

export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return new Intl.NumberFormat("en", { maximumSignificantDigits: digits }).format(value);
}

export const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value), 2);

export function share(value) {
  if (value === null || value === undefined) return "–";
  const percent = value * 100;
  if (percent === 0 || percent === 100) return `${percent} %`;
  if (percent < 0.1) return "< 0.1 %";
  if (percent > 99.9) return "> 99.9 %";
  return `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

export const times = (value) => (value >= 100 ? "> 100 ×" : `${value.toFixed(value < 10 ? 1 : 0)} ×`);

function zoned(micros, zone, options) {
  const date = new Date(micros / 1000);
  try {
    return new Intl.DateTimeFormat("en-GB", { timeZone: zone, ...options }).format(date);
  } catch {
    return new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options }).format(date);
  }
}

export const day = (micros, zone = "UTC") =>
  zoned(micros, zone, { day: "numeric", month: "short", year: "numeric" });
export const instant = (micros, zone = "UTC") =>
  zoned(micros, zone, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });

/** Formats "2017-05-01" as "Mon 1 May 2017". */
export const dayName = (text) =>
  zoned(Date.parse(`${text}T00:00:00Z`) * 1000, "UTC", { weekday: "short", day: "numeric", month: "short", year: "numeric" });

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Formats a name in a schema as a title: "long_term" as "long term". */
export const plain = (name) => name.replaceAll("_", " ");
