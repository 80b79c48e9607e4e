// View "Training": loss curves of training runs, and evaluation reports.
// In: GET /v1/runs and /v1/reports. Out: curves and facts of the chosen runs, reports (reports.js).

import { call, pause, show } from "../api.js";
import { axis, chart, preload, safe, tooltip, zoom } from "../charts.js";
import { card, el, empty, fill, select } from "../dom.js";
import { compact, count, duration, number, plain } from "../format.js";
import { reports } from "./reports.js";

const POLL_INTERVAL = 5_000; // milliseconds between updates while a run is running
const ALL = ""; // choice of the total loss, in place of an attribute
const FIRST_CHOSEN = 3; // number of runs that are chosen at first

export async function draw(host, { signal }) {
  preload();
  const runsHost = el("div", {});
  const reportsHost = el("div", { class: "grid" });
  fill(host, el("div", { class: "heading" }, el("h1", {}, "Training")), runsHost, reportsHost);
  const request = () => call("/v1/runs", { signal });
  await Promise.all([
    show(runsHost, request, (answer) => curves(runsHost, answer, request, signal), { signal, lines: 8 }),
    show(reportsHost, () => call("/v1/reports", { signal }), (answer) => fill(reportsHost, reports(answer.reports, signal), warningList(answer.warnings)), {
      signal, onError: (error) => error.status === 404 && fill(reportsHost),
    }),
  ]);
}

const warningList = (texts = []) => texts.length > 0 && el("ul", { class: "reasons warn" }, texts.map((text) => el("li", {}, text)));

async function curves(host, { runs: first, warnings = [] }, request, signal) {
  let runs = first.filter((run) => run.learned.length || run.held_out.length || run.kind === "running");
  if (!runs.length) {
    fill(host, card("Losses", {}, empty("No runs here", "The loaded models have no training curves. Start the service with --runs and the folder that contains your models.")));
    return;
  }
  const state = { chosen: new Set(runs.slice(0, FIRST_CHOSEN).map((run) => run.name)), by: ALL };
  const names = [...new Set(runs.flatMap((run) => [...run.learned, ...run.held_out].flatMap((point) => Object.keys(point.by ?? {}))))];
  const place = el("div", { class: "chart tall" });
  const pills = el("div", { class: "pills", role: "group", "aria-label": "Runs" });
  const table = el("div", {});
  const shown = () => runs.filter((run) => state.chosen.has(run.name));
  let drawn = null;
  const update = () => {
    fill(pills, runs.map((run) => el("label", { class: "pill" },
      el("input", { type: "checkbox", checked: state.chosen.has(run.name), onchange: (event) => {
        state.chosen[event.target.checked ? "add" : "delete"](run.name);
        update();
      } }),
      el("span", {}, run.name), run.kind === "running" && el("em", {}, "running"))));
    fill(table, facts(shown()));
    drawn?.redraw();
  };
  fill(host, card("Losses", {
    note: "Solid: held-out users. Pale: training users. If the held-out loss rises again, training could have stopped earlier.",
    tools: names.length > 0 && select("Loss of", [[ALL, "all, weighted"], ...names.map((name) => [name, plain(name)])], state.by, (name) => {
      state.by = name;
      update();
    }),
  }, pills, place, warningList(warnings)), el("div", { class: "after" }, card("Facts", {}, table)));
  update();
  drawn = await chart(place, (c) => lines(c, shown(), runs, state.by), { label: `Losses by step of ${runs.map((run) => run.name).join(", ")}`, signal });
  follow();

  async function follow() {
    try {
      while (runs.some((run) => run.kind === "running")) {
        await pause(POLL_INTERVAL, signal);
        const latest = (await request()).runs;
        runs = latest.filter((run) => run.learned.length || run.held_out.length || run.kind === "running");
        update();
      }
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 0) console.warn(error.message);
    }
  }
}

function lines(c, shown, all, by) {
  const value = (point) => (by === ALL ? point.loss : point.by?.[by]);
  const pairs = (points) => points.filter((point) => Number.isFinite(value(point))).map((point) => [point.step, value(point)]);
  const series = shown.flatMap((run) => {
    const colour = c.hues[all.indexOf(run) % c.hues.length];
    const line = { type: "line", symbol: "circle", showSymbol: false, sampling: "lttb", itemStyle: { color: colour }, emphasis: { disabled: true } };
    return [
      { ...line, name: `${run.name}: training`, data: pairs(run.learned), lineStyle: { color: colour, width: 1.25, opacity: 0.4 } },
      { ...line, name: `${run.name}: held out`, data: pairs(run.held_out), showSymbol: run.held_out.length < 30, symbolSize: 5, lineStyle: { color: colour, width: 2 } },
    ];
  }).filter((line) => line.data.length);
  return {
    grid: { left: 8, right: 20, top: 14, bottom: 40, containLabel: true },
    tooltip: tooltip(c, {
      trigger: "axis",
      formatter: (rows) => [`step ${count(rows[0].axisValue)}`, ...rows.map((row) => `${number(row.value[1], 4)}  ${safe(row.seriesName)}`)].join("\n"),
    }),
    graphic: series.length ? undefined : { type: "text", left: "center", top: "middle", style: { text: "The chosen runs do not have this loss", fill: c.muted, font: `13px ${c.font}` } },
    xAxis: axis(c, { type: "value", axisLabel: { formatter: compact }, splitLine: { show: false }, max: "dataMax" }),
    yAxis: axis(c, { type: "value", scale: true, axisLine: { show: false } }),
    dataZoom: zoom(c, { filterMode: "none", labelFormatter: (step) => count(Math.round(step)) }),
    series,
  };
}

function facts(runs) {
  if (!runs.length) return el("p", { class: "note" }, "Choose a run above.");
  const own = { preset: (run) => run.preset, steps: (run) => run.steps !== null && count(run.steps), time: (run) => run.seconds !== null && duration(run.seconds) };
  const names = [...new Set([...Object.keys(own), ...runs.flatMap((run) => run.facts.map(([name]) => name))])];
  const fact = (run, name) => run.facts.find(([title]) => title === name)?.[1] ?? (own[name]?.(run) || "–");
  const rows = names.map((name) => [name, (run) => String(fact(run, name))]);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Facts of runs" }, el("table", {},
    el("thead", {}, el("tr", {}, el("td", {}), runs.map((run) => el("th", { scope: "col" }, run.name)))),
    el("tbody", {}, rows.map(([name, text]) => el("tr", {}, el("th", { scope: "row", class: "muted" }, plain(name)), runs.map((run) => el("td", {}, text(run))))))));
}
