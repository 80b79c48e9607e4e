// Calls of the service's API: one way to ask, one form of refusal.
// In: a path, query, body, signal. Out: JSON, or an ApiError that says what to do.

import { el, empty, fill, skeleton } from "./dom.js";
import { count } from "./format.js";

const TOKEN = "userbert-token";
const HINT_AFTER = 2_000; // milliseconds
let asking = null; // the dialog for the token: one, whoever asks

export class ApiError extends Error {
  constructor(status, detail, answer = {}, retryAfter = null) {
    super(detail);
    Object.assign(this, { status, answer, retryAfter });
  }
}

export async function call(path, { query = {}, body, signal } = {}) {
  const asked = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const address = asked.length ? `${path}?${new URLSearchParams(asked)}` : path;
  for (;;) {
    const token = stored();
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let answer, said;
    try {
      const text = body === undefined ? undefined : JSON.stringify(body);
      answer = await fetch(address, { method: text ? "POST" : "GET", headers, body: text, signal });
      said = await answer.json().catch(() => ({}));
    } catch (error) {
      if (error.name === "AbortError") throw error;
      signal?.throwIfAborted();
      window.dispatchEvent(new Event("unreachable"));
      throw new ApiError(0, "The service does not answer. Is it still running?");
    }
    signal?.throwIfAborted();
    if (answer.ok) return said;
    if (answer.status === 401) {
      await askToken(token, signal);
      continue;
    }
    const seconds = Number(answer.headers.get("retry-after")) || null;
    throw new ApiError(answer.status, said.detail ?? `The service answered ${answer.status}.`, said, seconds);
  }
}

/** Show what a call answers: a skeleton first, then the answer, or what hinders it and what to do. */
export async function show(host, ask, draw, { signal, lines = 4, onError } = {}) {
  const hint = el("p", { class: "hint", hidden: true, role: "status" }, "Still working …");
  fill(host, skeleton(lines), hint);
  host.setAttribute("aria-busy", "true");
  const timer = setTimeout(() => { hint.hidden = false; }, HINT_AFTER);
  try {
    for (;;) {
      try {
        const answer = await ask(signal);
        clearTimeout(timer);
        signal?.throwIfAborted();
        fill(host);
        host.removeAttribute("aria-busy");
        await draw(answer, host);
        return answer;
      } catch (error) {
        if (error.name === "AbortError") return null;
        if (error.status === 503 && error.answer.detail) {
          clearTimeout(timer);
          fill(host, waiting(error));
          await pause((error.retryAfter ?? 3) * 1000, signal);
          continue;
        }
        throw error;
      }
    }
  } catch (error) {
    clearTimeout(timer);
    if (error.name === "AbortError") return null;
    host.removeAttribute("aria-busy");
    if (!(error instanceof ApiError)) console.error(error);
    if (onError?.(error, host)) return null;
    const again = el("button", { type: "button", class: "button", onclick: () => show(host, ask, draw, { signal, lines, onError }) }, "Try again");
    fill(host, el("div", { role: "alert" }, empty(
      error.status === 0 ? "No answer" : "This could not be shown",
      error instanceof ApiError ? sentence(error.message) : "A fault of the page; the browser's console says where.",
      again,
    )));
    return null;
  }
}

function waiting(error) {
  const { done, of } = error.answer;
  const known = typeof done === "number" && of > 0;
  return el(
    "div", { class: "empty", role: "status" },
    el("p", { class: "empty-title" }, known ? "Vectors are being made" : "Not ready yet"),
    known && el("progress", { value: done, max: of, "aria-label": "Users that are embedded" }),
    el("p", {}, known ? `${count(done)} of ${count(of)} users` : sentence(error.message)),
    el("p", { class: "note" }, "This is shown as soon as it is there."),
  );
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const pause = (milliseconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, milliseconds);
  signal?.addEventListener("abort", () => {
    clearTimeout(timer);
    reject(signal.reason);
  }, { once: true });
});

function stored() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

function askToken(wrong, signal) {
  if (stored() !== wrong) return Promise.resolve(); // given meanwhile
  asking ??= new Promise((resolve) => {
    const field = el("input", { type: "password", id: "token", autocomplete: "off", required: true });
    const told = el("p", { class: "error", role: "alert" }, wrong ? "The service does not know this token. Look for blanks, or ask who runs it." : "");
    const form = el(
      "form", {
        onsubmit: (event) => {
          event.preventDefault();
          const given = field.value.trim();
          if (!/^[\x21-\x7e]+$/.test(given)) {
            told.textContent = "A token is letters, digits and signs, without blanks.";
            return;
          }
          sessionStorage.setItem(TOKEN, given);
          dialog.close();
        },
      },
      el("h2", { id: "token-title" }, "This service asks for a token"),
      el("p", { class: "note" }, "Whoever runs it has a file of tokens. It is kept for this tab alone."),
      el("label", { for: "token" }, "Token"), field, told,
      el("button", { type: "submit", class: "button primary" }, "Open"),
    );
    const dialog = el("dialog", { "aria-labelledby": "token-title", oncancel: (event) => event.preventDefault() }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      asking = null;
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  const left = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
  return Promise.race([asking, left]);
}
