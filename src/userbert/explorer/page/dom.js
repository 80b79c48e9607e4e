// Elements from plain values. Whatever is text becomes a text node: nothing of the data is markup.
// In: a tag, properties, children. Out: elements.

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return made;
}

export function fill(host, ...children) {
  host.replaceChildren(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return host;
}

/** A part of a view: a heading, what stands beside it, a body. */
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

/** A bar from 0 to 1, with what it says as text beside it. */
export function bar(share, { tone = "", title } = {}) {
  const width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { class: `bar ${tone}`, title, "aria-hidden": "true" }, el("i", { style: { width } }));
}

/** A choice of one. */
export function select(label, options, value, onchange) {
  const box = el("select", { "aria-label": label, onchange: () => onchange(box.value) },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return el("label", { class: "choice" }, el("span", {}, label), box);
}

/** Offer text as a file. */
export function download(name, text, kind = "text/csv;charset=utf-8") {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** Rows as CSV by RFC 4180. Ids stay what they are: another program reads them. */
export function csv(rows) {
  const cell = (value) => {
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

export const userLink = (id, extra = "") =>
  el("a", { href: `#/user/${encodeURIComponent(id)}${extra}`, class: "id" }, id);
