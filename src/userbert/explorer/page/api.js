// Calls the service's HTTP API, and shows loading, progress and errors of a call in a view.
// In: a path, query, body, abort signal. Out: JSON, or an ApiError whose message says what to do.

import { el, empty, fill, skeleton } from "./dom.js";
import { count } from "./format.js";

const TOKEN = "userbert-token";
const HINT_AFTER = 2_000; // milliseconds until "Still working …" appears
let tokenDialog = null; // promise of the open token dialog, which all calls share

export class ApiError extends Error {
  constructor(status, detail, answer = {}, retryAfter = null) {
    super(detail);
    Object.assign(this, { status, answer, retryAfter });
  }
}

export async function call(path, { query = {}, body, signal } = {}) {
  const parameters = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const address = parameters.length ? `${path}?${new URLSearchParams(parameters)}` : path;
  for (;;) {
    const token = storedToken();
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let answer, content;
    try {
      const text = body === undefined ? undefined : JSON.stringify(body);
      answer = await fetch(address, { method: text ? "POST" : "GET", headers, body: text, signal });
      content = await answer.json().catch(() => ({}));
    } catch (error) {
      if (error.name === "AbortError") throw error;
      signal?.throwIfAborted();
      window.dispatchEvent(new Event("unreachable"));
      throw new ApiError(0, "The service does not answer. Is it still running?");
    }
    signal?.throwIfAborted();
    if (answer.ok) return content;
    if (answer.status === 401) {
      await askToken(token, signal);
      continue;
    }
    const seconds = Number(answer.headers.get("retry-after")) || null;
    throw new ApiError(answer.status, content.detail ?? `The service answered ${answer.status}.`, content, seconds);
  }
}

/** Shows a call in an element: a skeleton while the call runs, then the answer or error. Repeats the call after a 503. */
export async function show(host, request, draw, { signal, lines = 4, onError } = {}) {
  const hint = el("p", { class: "hint", hidden: true, role: "status" }, "Still working …");
  fill(host, skeleton(lines), hint);
  host.setAttribute("aria-busy", "true");
  const timer = setTimeout(() => { hint.hidden = false; }, HINT_AFTER);
  try {
    for (;;) {
      try {
        const answer = await request(signal);
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
    const again = el("button", { type: "button", class: "button", onclick: () => show(host, request, draw, { signal, lines, onError }) }, "Try again");
    fill(host, el("div", { role: "alert" }, empty(
      error.status === 0 ? "No answer" : "These results could not be shown",
      error instanceof ApiError ? sentence(error.message) : "There is a bug in the page. The console of the browser says where.",
      again,
    )));
    return null;
  }
}

function waiting(error) {
  const { done, of } = error.answer;
  const hasProgress = typeof done === "number" && of > 0;
  return el(
    "div", { class: "empty", role: "status" },
    el("p", { class: "empty-title" }, hasProgress ? "Computing vectors" : "Not ready yet"),
    hasProgress && el("progress", { value: done, max: of, "aria-label": "Users embedded so far" }),
    el("p", {}, hasProgress ? `${count(done)} of ${count(of)} users` : sentence(error.message)),
    el("p", { class: "note" }, "The page tries again every few seconds."),
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

function storedToken() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

function askToken(wrong, signal) {
  if (storedToken() !== wrong) return Promise.resolve(); // another call has already stored a new token
  tokenDialog ??= new Promise((resolve) => {
    const field = el("input", { type: "password", id: "token", autocomplete: "off", required: true });
    const message = el("p", { class: "error", role: "alert" }, wrong ? "The service does not know this token. Check for spaces, or ask the person who runs the service." : "");
    const form = el(
      "form", {
        onsubmit: (event) => {
          event.preventDefault();
          const token = field.value.trim();
          if (!/^[\x21-\x7e]+$/.test(token)) {
            message.textContent = "A token has only ASCII letters, digits and punctuation, no spaces.";
            return;
          }
          sessionStorage.setItem(TOKEN, token);
          dialog.close();
        },
      },
      el("h2", { id: "token-title" }, "This service needs a token"),
      el("p", { class: "note" }, "Ask the person who runs the service. The token is kept for this tab only."),
      el("label", { for: "token" }, "Token"), field, message,
      el("button", { type: "submit", class: "button primary" }, "Open"),
    );
    const dialog = el("dialog", { "aria-labelledby": "token-title", oncancel: (event) => event.preventDefault() }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      tokenDialog = null;
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  const aborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
  return Promise.race([tokenDialog, aborted]);
}
