// View "Data": events by day, words per user, vocabulary, and rows that were left out.
// In: GET /v1/data. Out: facts, charts and tables.

import { call, show } from "../api.js";
import { axis, chart, preload, safe, tooltip, zoom } from "../charts.js";
import { bar, card, el, empty, fill } from "../dom.js";
import { compact, count, day, dayName, instant, plural, plain, share } from "../format.js";

const NO_DATA = "Start the service with --data and a folder of prepared data to see what is in the data.";

export async function draw(host, { signal }) {
  preload();
  await show(host, () => call("/v1/data", { signal }), (data) => page(host, data, signal), {
    signal, lines: 10,
    onError: (error) => error.status === 404 && fill(host, heading("Data"), empty("No data", NO_DATA)),
  });
}

const heading = (title, sub) => el("div", { class: "heading" }, el("h1", {}, title), sub && el("p", { class: "note" }, sub));

async function page(host, data, signal) {
  const zone = data.timezone;
  const span = data.users ? `${day(data.first_event, zone)} to ${day(data.last_event, zone)}` : "no events";
  fill(host,
    heading(data.name, `Prepared data: ${span}`),
    facts(data, zone));
  if (!data.users) {
    host.append(empty("No users here", "No event is in any segment. The table below says why."));
    host.append(el("div", { class: "grid" }, rowsLeftOut(data)));
    return;
  }
  const days = el("div", { class: "chart tall" });
  const histograms = data.segments.map((segment) => [segment, el("div", { class: "chart" })]);
  const grid = el(
    "div", { class: "grid" },
    card("Events by day", {
      wide: true,
      note: `Events per ${data.days.unit ?? "day"}, by action type${data.days.is_sampled ? "; estimated from a sample of the users" : ""}. Drag the handles to zoom.`,
    }, days),
    histograms.map(([segment, place]) => card(`Words per user: ${plain(segment.name)}`, {
      note: `${count(segment.words)} words (each a ${segment.by === "day" ? "day" : "session"}) of ${plural(segment.users, "user")}, ${count(segment.actions)} actions. `
        + `Half of the users have ${compact(segment.words_per_user.median)} or fewer, one in ten has ${compact(segment.words_per_user.p90)} or more; maximum: ${compact(segment.words_per_user.max)}.`,
    }, place)),
    vocabulary(data.values),
    rowsLeftOut(data),
  );
  host.append(grid);
  await chart(days, (c) => byDay(c, data.days), { label: `Events by day: ${span}, ${Object.keys(data.days.actions).join(", ")}`, signal });
  for (const [segment, place] of histograms) {
    const { median, p90 } = segment.words_per_user;
    await chart(place, (c) => histogram(c, segment.words_per_user), { label: `Words per user in ${segment.name}: median ${median}, 90 % up to ${p90}`, signal });
  }
}

function facts(data, zone) {
  const used = data.rows.reduce((sum, file) => sum + file.used, 0);
  const tile = (name, value, more) => el("div", { class: "fact" }, el("dt", {}, name), el("dd", {}, value, more && el("small", {}, more)));
  return el("dl", { class: "facts" },
    tile("Users", count(data.users)),
    tile("Events used", compact(used), used >= 10_000 ? count(used) : ""),
    data.users > 0 && tile("Days", count(Math.max(1, Math.round((data.last_event - data.first_event) / 86_400e6))), zone),
    data.cutoff && tile("Cut-off", day(data.cutoff, zone), instant(data.cutoff, zone).split(", ").pop()),
    tile("Vocabulary fitted", data.fit_before ? `to ${day(data.fit_before - 1, zone)}` : "on all data", data.fit_before ? "" : "includes the values of the latest days"));
}

function byDay(c, { days, actions }) {
  const names = Object.keys(actions);
  return {
    color: [c.accent, ...c.hues.slice(1)],
    grid: { left: 8, right: 12, top: names.length > 1 ? 34 : 12, bottom: 40, containLabel: true },
    legend: names.length > 1 ? { type: "scroll", top: 0, left: 0, icon: "circle", itemWidth: 8, itemHeight: 8, itemGap: 16, textStyle: { color: c.ink, fontSize: 12 }, pageIconColor: c.accent, pageTextStyle: { color: c.muted } } : undefined,
    tooltip: tooltip(c, {
      trigger: "axis", axisPointer: { type: "shadow", shadowStyle: { color: c["accent-soft"] } },
      formatter: (rows) => [dayName(rows[0].axisValue), ...rows.filter((row) => row.value).reverse()
        .map((row) => `${count(row.value)}  ${safe(row.seriesName)}`)].join("\n"),
    }),
    xAxis: axis(c, { type: "category", data: days, axisLabel: { formatter: (text) => dayName(text).slice(4) } }),
    yAxis: axis(c, { type: "value", axisLine: { show: false }, axisLabel: { formatter: compact } }),
    dataZoom: zoom(c, { labelFormatter: (_, text) => dayName(text).slice(4) }),
    series: names.map((name) => ({ name, type: "bar", stack: "all", data: actions[name], barCategoryGap: "12%", large: days.length > 400 })),
  };
}

function histogram(c, { edges, counts }) {
  const last = counts.length - 1;
  const isTail = last > 0 && edges[last + 1] - edges[last] > edges[1] - edges[0];
  const label = (i) => (i === last && isTail ? `${compact(edges[i])} or more` : edges[i + 1] - edges[i] <= 1 ? `${edges[i]}` : `${compact(edges[i])}–${compact(edges[i + 1] - 1)}`);
  return {
    color: [c.accent],
    grid: { left: 8, right: 12, top: 12, bottom: 20, containLabel: true },
    tooltip: tooltip(c, {
      trigger: "axis", axisPointer: { type: "shadow", shadowStyle: { color: c["accent-soft"] } },
      formatter: ([row]) => `${row.name} words\n${plural(row.value, "user")}`,
    }),
    xAxis: axis(c, { type: "category", data: counts.map((_, i) => label(i)), name: "words", nameLocation: "middle", nameGap: 24 }),
    yAxis: axis(c, { type: "value", axisLine: { show: false }, axisLabel: { formatter: compact } }),
    series: [{ type: "bar", data: counts, barCategoryGap: "8%", itemStyle: { borderRadius: [2, 2, 0, 0] } }],
  };
}

/** Table of attributes, and the most frequent values of the chosen attribute. */
function vocabulary(values) {
  const top = el("div", { class: "top-values", "aria-live": "polite" });
  const rows = values.map((column) => {
    const choose = () => {
      for (const [row, button] of rows) {
        row.classList.toggle("chosen", button === chooser);
        button.setAttribute("aria-pressed", String(button === chooser));
      }
      fill(top, el("h3", {}, plain(column.attribute), el("span", { class: "note" }, ` in ${plain(column.place)}`)),
        column.top.length
          ? el("ol", { class: "bars" }, column.top.map(([value, part]) => el("li", {},
            el("span", { class: "label", title: value }, value), bar(part / Math.max(...column.top.map((pair) => pair[1]))), el("span", { class: "num" }, share(part)))))
          : el("p", { class: "note" }, "No row has a known value."));
    };
    const chooser = el("button", { type: "button", class: "link", "aria-pressed": "false", onclick: choose }, plain(column.attribute));
    const covered = 1 - (column.missing ?? 0) - (column.unknown ?? 0);
    const row = el("tr", { onclick: (event) => event.target === chooser || choose() },
      el("th", { scope: "row" }, chooser), el("td", { class: "muted" }, plain(column.place)),
      el("td", { class: "num" }, count(column.known), el("span", { class: "unit" }, column.kind === "number" ? " bins" : "")),
      el("td", { class: "cover" }, bar(covered, { tone: covered < 0.8 ? "warn" : "" }), el("span", { class: "num" }, share(covered))),
      el("td", { class: "num" }, share(column.missing)), el("td", { class: "num" }, column.kind === "number" ? "" : share(column.unknown)));
    return [row, chooser, choose];
  });
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Attributes" }, el("table", {},
    el("thead", {}, el("tr", {}, ["Attribute", "Where"].map((name) => el("th", { scope: "col" }, name)),
      el("th", { scope: "col", class: "num" }, "Values"), el("th", { scope: "col" }, "Covered"),
      ["Missing", "Unknown"].map((name) => el("th", { scope: "col", class: "num" }, name)))),
    el("tbody", {}, rows.map(([row]) => row))));
  const first = values.findIndex((column) => column.kind === "category" && column.top.length > 2);
  rows[Math.max(first, 0)]?.[2]();
  return card("Vocabulary", { wide: true, note: "Share of actions, or of profiles, with a known value. Choose an attribute to see its most frequent values." },
    el("div", { class: "split" }, table, top));
}

function rowsLeftOut(data) {
  const total = (key) => data.rows.reduce((sum, file) => sum + file[key], 0);
  const columns = [["read", "Read"], ["used", "Used"], ["outside_segments", "In no segment"], ["duplicates", "Duplicates"], ["quarantined", "Quarantined"]];
  const cells = (counts) => columns.map(([key]) => el("td", { class: "num" }, counts[key] ? count(counts[key]) : el("span", { class: "muted" }, "0")));
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Rows by file" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "File"), columns.map(([, name]) => el("th", { scope: "col", class: "num" }, name)))),
    el("tbody", {}, data.rows.map((file) => el("tr", {}, el("th", { scope: "row", class: "file" }, file.file), cells(file)))),
    data.rows.length > 1 && el("tfoot", {}, el("tr", {}, el("th", { scope: "row" }, "All"), cells(Object.fromEntries(columns.map(([key]) => [key, total(key)])))))));
  const more = [];
  if (data.outside.length) {
    const most = Math.max(...data.outside.map((pair) => pair[1]));
    more.push(el("div", {}, el("h3", {}, "Actions in no segment"), el("ol", { class: "bars" }, data.outside.slice(0, 12).map(([name, rows]) =>
      el("li", {}, el("span", { class: "label", title: name }, name), bar(rows / most, { tone: "dim" }), el("span", { class: "num" }, compact(rows)))))));
  }
  if (data.rejected.rows) {
    more.push(el("div", {}, el("h3", {}, `${plural(data.rejected.rows, "row")} quarantined`), el("ul", { class: "reasons" },
      data.rejected.first.slice(0, 8).map((row) => el("li", {}, el("span", { class: "muted" }, `${row.file}, row ${count(row.row)}: `), row.reason)))));
  }
  if (data.warnings.length) {
    more.push(el("div", {}, el("h3", {}, "Warnings"), el("ul", { class: "reasons warn" }, data.warnings.map((text) => el("li", {}, text)))));
  }
  const unused = total("read") - total("used");
  return card("Rows left out", {
    wide: true,
    note: unused ? `${count(unused)} of ${plural(total("read"), "row")} are in no word. The table says why.` : "Every row is used.",
  }, table, more.length > 0 && el("div", { class: "columns" }, more));
}
