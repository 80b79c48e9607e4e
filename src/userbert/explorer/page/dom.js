// Builds elements from plain values. Text always becomes a text node, so data are never markup.
// In: a tag, properties, children. Out: elements.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

/** Replaces the children of an element. */
export function fill(host, ...children) {
  host.replaceChildren(...present(children));
  return host;
}

const present = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Section of a view: a heading, tools next to the heading, a note, a body. */
export function card(title, { note, tools, wide, className = "" } = {}, ...body) {
  return el(
    "section", { class: `card ${wide ? "wide" : ""} ${className}` },
    title && el("div", { class: "card-head" }, el("h2", {}, title), tools && el("div", { class: "tools" }, tools)),
    note && el("p", { class: "note" }, note),
    body,
  );
}

export function skeleton(lines = 4) {
  const widths = [92, 74, 83, 60, 88, 70];
  return el(
    "div", { class: "skeleton", "aria-hidden": "true" },
    Array.from({ length: lines }, (_, i) => el("span", { style: { width: `${widths[i % widths.length]}%` } })),
  );
}

export function empty(title, advice, ...actions) {
  return el("div", { class: "empty" }, el("p", { class: "empty-title" }, title),
    advice && el("p", {}, advice), actions);
}

/** Bar for a share from 0 to 1. Screen readers skip the bar, so show the number as text next to it. */
export function bar(share, { tone = "", title } = {}) {
  const width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { class: `bar ${tone}`, title, "aria-hidden": "true" }, el("i", { style: { width } }));
}

/** Labelled drop-down list; `options` are [value, text] pairs. */
export function select(label, options, value, onchange) {
  const box = el("select", { "aria-label": label, onchange: () => onchange(box.value) },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return el("label", { class: "choice" }, el("span", {}, label), box);
}

/** Saves text as a file. */
export function download(name, text, kind = "text/csv;charset=utf-8") {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** Writes rows as CSV (RFC 4180). Ids are not altered, so that other programs can match them. */
export function csv(rows) {
  const cell = (value) => {
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

export const userLink = (id, extra = "") =>
  el("a", { href: `#/user/${encodeURIComponent(id)}${extra}`, class: "id" }, id);
