// View "Training": how losses fell, and what evaluations found.
// In: GET /v1/runs and /v1/reports. Out: curves of the runs that are chosen, facts, reports (reports.js).

import { call, pause, show } from "../api.js";
import { ahead, axis, chart, safe, tooltip, zoom } from "../charts.js";
import { card, el, empty, fill, select } from "../dom.js";
import { compact, count, duration, number, plain } from "../format.js";
import { reports } from "./reports.js";

const AGAIN = 5_000; // milliseconds, while something runs
const ALL = "";
const AT_FIRST = 3; // runs

export async function draw(host, { signal }) {
  ahead();
  const runs = el("div", {});
  const found = el("div", { class: "grid" });
  fill(host, el("div", { class: "heading" }, el("h1", {}, "Training")), runs, found);
  const ask = () => call("/v1/runs", { signal });
  await Promise.all([
    show(runs, ask, (answer) => curves(runs, answer, ask, signal), { signal, lines: 8 }),
    show(found, () => call("/v1/reports", { signal }), (answer) => fill(found, reports(answer.reports, signal), warned(answer.warnings)), {
      signal, onError: (error) => error.status === 404 && fill(found),
    }),
  ]);
}

const warned = (texts = []) => texts.length > 0 && el("ul", { class: "reasons warn" }, texts.map((text) => el("li", {}, text)));

async function curves(host, { runs: first, warnings = [] }, ask, signal) {
  let runs = first.filter((run) => run.learned.length || run.held_out.length || run.kind === "running");
  if (!runs.length) {
    fill(host, card("Losses", {}, empty("No runs here", "The models that serve have no curves of their training. Start the service with --runs and the folder in which models are made.")));
    return;
  }
  const state = { chosen: new Set(runs.slice(0, AT_FIRST).map((run) => run.name)), by: ALL };
  const names = [...new Set(runs.flatMap((run) => [...run.learned, ...run.held_out].flatMap((point) => Object.keys(point.by ?? {}))))];
  const place = el("div", { class: "chart tall" });
  const pills = el("div", { class: "pills", role: "group", "aria-label": "Runs" });
  const table = el("div", {});
  const shown = () => runs.filter((run) => state.chosen.has(run.name));
  let drawn = null;
  const renew = () => {
    fill(pills, runs.map((run) => el("label", { class: "pill" },
      el("input", { type: "checkbox", checked: state.chosen.has(run.name), onchange: (event) => {
        state.chosen[event.target.checked ? "add" : "delete"](run.name);
        renew();
      } }),
      el("span", {}, run.name), run.kind === "running" && el("em", {}, "running"))));
    fill(table, facts(shown()));
    drawn?.redraw();
  };
  fill(host, card("Losses", {
    note: "Solid: users held out, who were not learned from. Pale: learned from. Held-out losses that rise again mean that training could have ended earlier.",
    tools: names.length > 0 && select("Loss of", [[ALL, "all, weighed"], ...names.map((name) => [name, plain(name)])], state.by, (name) => {
      state.by = name;
      renew();
    }),
  }, pills, place, warned(warnings)), el("div", { class: "after" }, card("Facts", {}, table)));
  renew();
  drawn = await chart(place, (c) => lines(c, shown(), runs, state.by), { label: `Losses by step of ${runs.map((run) => run.name).join(", ")}`, signal });
  follow();

  async function follow() {
    try {
      while (runs.some((run) => run.kind === "running")) {
        await pause(AGAIN, signal);
        const now = (await ask()).runs;
        runs = now.filter((run) => run.learned.length || run.held_out.length || run.kind === "running");
        renew();
      }
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 0) console.warn(error.message);
    }
  }
}

function lines(c, shown, all, by) {
  const value = (point) => (by === ALL ? point.loss : point.by?.[by]);
  const points = (some) => some.filter((point) => Number.isFinite(value(point))).map((point) => [point.step, value(point)]);
  const series = shown.flatMap((run) => {
    const colour = c.hues[all.indexOf(run) % c.hues.length];
    const line = { type: "line", symbol: "circle", showSymbol: false, sampling: "lttb", itemStyle: { color: colour }, emphasis: { disabled: true } };
    return [
      { ...line, name: `${run.name}: learned from`, data: points(run.learned), lineStyle: { color: colour, width: 1.25, opacity: 0.4 } },
      { ...line, name: `${run.name}: held out`, data: points(run.held_out), showSymbol: run.held_out.length < 30, symbolSize: 5, lineStyle: { color: colour, width: 2 } },
    ];
  }).filter((one) => one.data.length);
  return {
    grid: { left: 8, right: 20, top: 14, bottom: 40, containLabel: true },
    tooltip: tooltip(c, {
      trigger: "axis",
      formatter: (rows) => [`step ${count(rows[0].axisValue)}`, ...rows.map((row) => `${number(row.value[1], 4)}  ${safe(row.seriesName)}`)].join("\n"),
    }),
    graphic: series.length ? undefined : { type: "text", left: "center", top: "middle", style: { text: "Nothing of this loss in the runs that are chosen", fill: c.muted, font: `13px ${c.font}` } },
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
  const told = (run, name) => run.facts.find(([one]) => one === name)?.[1] ?? (own[name]?.(run) || "–");
  const rows = names.map((name) => [name, (run) => String(told(run, name))]);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Facts of runs" }, el("table", {},
    el("thead", {}, el("tr", {}, el("td", {}), runs.map((run) => el("th", { scope: "col" }, run.name)))),
    el("tbody", {}, rows.map(([name, told]) => el("tr", {}, el("th", { scope: "row", class: "muted" }, plain(name)), runs.map((run) => el("td", {}, told(run))))))));
}
