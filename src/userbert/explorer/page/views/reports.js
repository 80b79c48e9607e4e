// Evaluation reports: the verdict in words, and the metric of each model with its interval.
// In: the answer of /v1/reports. Out: a card per report, with dots and whiskers on a scale per task.

import { card, download, el } from "../dom.js";
import { number, plain } from "../format.js";

export function reports(all, signal) {
  return all.map((report) => card(`Report: ${report.name}`, { wide: true, tools: report.page && openButton(report, signal) },
    report.sentences.length > 0 && el("div", { class: "verdict" }, report.sentences.map((text) => el("p", {}, text))),
    report.warnings.length > 0 && el("ul", { class: "reasons warn" }, report.warnings.map((text) => el("li", {}, text))),
    el("div", { class: "columns" }, tasks(report.rows).map(([title, rows]) => intervals(title, rows)))));
}

/** Link that opens the report; with a token, a button that saves the report, as links cannot send tokens. */
function openButton(report, signal) {
  let token = null;
  try {
    token = sessionStorage.getItem("userbert-token");
  } catch { /* without storage there is no token */ }
  if (!token) return el("a", { class: "button", href: report.page, target: "_blank", rel: "noopener" }, "Open the report");
  return el("button", {
    type: "button", class: "button", onclick: async () => {
      const answer = await fetch(report.page, { headers: { Authorization: `Bearer ${token}` }, signal });
      if (answer.ok) download(`${report.name.replaceAll(/[^\w.-]+/g, "-")}.html`, await answer.text(), "text/html");
    },
  }, "Save the report");
}

function tasks(rows) {
  const byTitle = new Map();
  for (const row of rows) {
    const title = `${plain(row.task)}: ${row.metric}`;
    byTitle.set(title, [...(byTitle.get(title) ?? []), row]);
  }
  return [...byTitle];
}

function intervals(title, rows) {
  const modelRows = rows.filter((row) => Number.isFinite(row.mean) && !row.model.includes(" − "));
  const ends = modelRows.flatMap((row) => [row.low ?? row.mean, row.high ?? row.mean]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const at = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  const best = Math.max(...modelRows.map((row) => row.mean));
  const differences = rows.filter((row) => row.model.includes(" − "));
  return el("div", {},
    el("h3", {}, title),
    el("ol", { class: "intervals" }, [...modelRows].sort((a, b) => b.mean - a.mean).map((row) => el("li", { class: row.mean === best ? "best" : "" },
      el("span", { class: "label", title: row.model }, row.model),
      el("span", { class: "whisker", "aria-hidden": "true", style: { "--low": at(row.low ?? row.mean), "--high": at(row.high ?? row.mean), "--mean": at(row.mean) } }, el("i", {}), el("b", {})),
      el("span", { class: "num" }, row.mean.toFixed(3), row.low !== null && el("small", {}, `${row.low.toFixed(3)} to ${row.high.toFixed(3)}`))))),
    differences.map((row) => el("p", { class: "note" }, `${row.model}: ${number(row.mean, 2)} (${number(row.low, 2)} to ${number(row.high, 2)})`)));
}
