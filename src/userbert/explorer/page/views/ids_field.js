// Field for user ids, which are typed, pasted or read from a file.
// In: lines, or CSV with a column user_id. Out: `ids` without duplicates, or `fault`, an error message.

import { el } from "../dom.js";
import { count, plural } from "../format.js";

const LARGEST = 16 * 2 ** 20; // bytes; the service's limit for a request body
let fields = 0;

export class IdsField {
  constructor(title, advice, { rows, most }) {
    Object.assign(this, { most, ids: [], fault: "" });
    const id = `ids-${fields++}`;
    this.area = el("textarea", { id, rows, spellcheck: "false", autocomplete: "off", "aria-describedby": `${id}-message`, oninput: () => this.#read(this.area.value) });
    this.message = el("p", { class: "note", id: `${id}-message`, "aria-live": "polite" }, advice);
    this.file = el("input", { type: "file", accept: ".csv,.txt,text/csv,text/plain", class: "file-input", id: `${id}-file`, onchange: () => this.#open() });
    this.advice = advice;
    this.back = el("button", { type: "button", class: "link", hidden: true, onclick: () => this.set([], "") }, "Remove");
    this.host = el("div", { class: "ids-field" },
      el("div", { class: "card-head" }, el("label", { for: id, class: "field-title" }, title),
        el("span", { class: "tools" }, this.back, el("label", { class: "link file-label", for: `${id}-file` }, "Choose a file", this.file))),
      this.area, this.message);
    this.host.addEventListener("dragover", (event) => event.preventDefault());
    this.host.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.#open(event.dataTransfer.files[0]);
    });
  }

  /** Sets ids from another source; a message replaces the text area. */
  set(ids, message) {
    this.ids = [...new Set(ids)];
    this.fault = "";
    this.area.value = "";
    this.area.hidden = Boolean(message);
    this.back.hidden = !message;
    this.#showMessage(message || this.advice);
    this.#limit();
  }

  async #open(file = this.file.files[0]) {
    if (!file) return;
    this.file.value = "";
    if (file.size > LARGEST) {
      this.#refuse(`${file.name} has ${count(Math.round(file.size / 2 ** 20))} MB; at most ${LARGEST / 2 ** 20} can be used. Keep only the column user_id, or use userbert lookalike.`);
      return;
    }
    const text = await file.text();
    if (text.includes("\0")) this.#refuse(`${file.name} is not text. Save it as CSV.`);
    else if (this.#read(text)) this.set(this.ids, `${file.name}: ${plural(this.ids.length, "user")}`);
  }

  #read(text) {
    const parsed = idsOf(text);
    if (parsed === null) return this.#refuse("There are several columns, but no column user_id. Call the column with ids user_id in the first line.");
    this.ids = [...new Set(parsed)];
    this.fault = "";
    const duplicates = parsed.length - this.ids.length;
    this.#showMessage(this.ids.length ? plural(this.ids.length, "user") + (duplicates ? `; ${plural(duplicates, "duplicate")} removed` : "") : this.advice);
    return this.#limit();
  }

  #limit() {
    const tooLong = this.ids.some((id) => id.length > 1000);
    if (this.ids.length > this.most) return this.#refuse(`${count(this.ids.length)} users; at most ${count(this.most)} can be used. Enter fewer.`);
    if (tooLong) return this.#refuse("A line has more than 1,000 characters. Enter one id per line.");
    return true;
  }

  #refuse(fault) {
    this.fault = fault;
    this.message.className = "error";
    this.message.textContent = fault;
    return false;
  }

  #showMessage(text) {
    this.message.className = "note";
    this.message.textContent = text;
  }
}

/** Reads ids, one per line or from the column user_id; null if there are several columns without user_id. */
export function idsOf(text) {
  const clean = text.replace(/^\uFEFF/, "");
  const first = clean.slice(0, clean.search(/\r?\n|$/)).split(",").map((name) => name.trim().replace(/^"|"$/g, ""));
  const column = first.indexOf("user_id");
  if (column < 0) {
    if (first.length > 1 && first.every((name) => /^[a-z_ ]+$/i.test(name))) return null;
    return clean.split(/\r?\n/).map((line) => line.trim().replace(/^"(.*)"$/, (_, inner) => inner.replaceAll('""', '"'))).filter(Boolean);
  }
  return cells(clean, column).slice(1).filter(Boolean);
}

/** Reads one column of CSV (RFC 4180). */
function cells(text, column) {
  const values = [];
  let cell = "", place = 0, isQuoted = false;
  const end = () => {
    if (place === column) values.push(cell.trim());
    cell = "";
  };
  for (let i = 0; i < text.length; i++) {
    const sign = text[i];
    if (isQuoted) {
      if (sign === '"' && text[i + 1] === '"') cell += text[++i];
      else if (sign === '"') isQuoted = false;
      else cell += sign;
    } else if (sign === '"' && cell === "") isQuoted = true;
    else if (sign === ",") {
      end();
      place++;
    } else if (sign === "\n") {
      end();
      place = 0;
    } else if (sign !== "\r") cell += sign;
  }
  if (cell) end();
  return values;
}
