// Canvas of the map: tens of thousands of points to pan, zoom, draw around and click.
// In: coordinates, groups of points. Out: a chart with one series per group; indices of the points that
// were drawn around or clicked. `nearest` finds the point under the pointer, because ECharts' large mode
// does not report it.

import { chart } from "../charts.js";
import { el } from "../dom.js";

const NEAR = 8; // maximum distance in pixels between the pointer and a point that it hits
const CLICK_DELAY = 300; // milliseconds after a drawn shape in which a click is ignored
const OUTLIERS = 0.003; // share of users at each end of an axis that the first view leaves out
const MARGIN = 0.1; // margin of the first view, as a share of the width of the users in it
const FULL_VIEW = 0.8; // show all users at first if the first view would cover a larger share of the axes

export class Points {
  constructor(host, map, signal) {
    Object.assign(this, { host, map, signal, chart: null, groups: [], marked: new Uint32Array(), hidden: new Set(), groupOf: null });
    this.tip = el("div", { class: "tip", hidden: true });
    this.label = "";
    this.range = bounds(map);
  }

  /** Draws groups and keeps the zoom; `label` is the title of the colour. */
  async draw(groups, label) {
    this.groups = groups;
    this.label = label;
    this.hidden.clear();
    this.groupOf = new Uint16Array(this.map.shown);
    groups.forEach((group, i) => { for (const place of group.places) this.groupOf[place] = i; });
    if (this.chart) {
      this.chart.redraw();
      return;
    }
    const inner = el("div", { class: "map-inner" });
    this.host.replaceChildren(inner, this.tip);
    this.chart = await chart(inner, (c) => this.option(c), { label: `Users as points; ${this.map.shown} of ${this.map.users}`, signal: this.signal });
    if (this.chart) this.listen();
  }

  option(c) {
    const [left, right, low, high] = this.fitted();
    const hidden = (min, max) => ({ type: "value", show: false, min, max });
    const zooms = this.chart?.getOption()?.dataZoom ?? this.firstZoom([left, right, low, high]);
    const at = (i) => ({ start: zooms[i].start, end: zooms[i].end });
    return {
      animation: false,
      grid: { left: 0, right: 0, top: 0, bottom: 0 },
      xAxis: hidden(left, right), yAxis: hidden(low, high),
      dataZoom: [
        { type: "inside", xAxisIndex: 0, filterMode: "none", minSpan: 1, throttle: 16, ...at(0) },
        { type: "inside", yAxisIndex: 0, filterMode: "none", minSpan: 1, throttle: 16, ...at(1) },
      ],
      toolbox: { show: false },
      brush: {
        seriesIndex: [], toolbox: [], throttleType: "debounce", throttleDelay: 100,
        brushStyle: { color: c["accent-soft"], borderColor: c.accent, borderWidth: 1.5 },
      },
      series: [
        ...this.groups.map((group) => this.series(group.name, this.shownOf(group), group.hue(c), this.marked.length ? 0.16 : 0.8)),
        ...(this.marked.length ? this.groups.map((group) => this.series(`(chosen) ${group.name}`, this.chosenOf(group), group.hue(c), 1)) : []),
      ],
    };
  }

  shownOf(group) {
    return this.hidden.has(group.name) ? new Uint32Array() : group.places;
  }

  chosenOf(group) {
    return this.marked.filter((place) => this.groups[this.groupOf[place]] === group);
  }

  series(id, places, colour, opacity) {
    return {
      id, type: "scatter", large: true, largeThreshold: 1, progressive: 0, silent: true, dimensions: ["x", "y"],
      symbolSize: size(this.map.shown), itemStyle: { color: colour, opacity }, data: this.flat(places),
    };
  }

  flat(places) {
    const { x, y } = this.map;
    const pairs = new Float32Array(places.length * 2);
    for (let i = 0; i < places.length; i++) {
      pairs[2 * i] = x[places[i]];
      pairs[2 * i + 1] = y[places[i]];
    }
    return pairs;
  }

  /** Returns the ranges of both axes, with equal horizontal and vertical scales. */
  fitted() {
    const { left, right, low, high } = this.range;
    const wide = this.host.clientWidth || 1, tall = this.host.clientHeight || 1;
    const unit = Math.max((right - left) / wide, (high - low) / tall) * 1.06;
    const [x, y] = [(left + right) / 2, (low + high) / 2];
    return [x - (unit * wide) / 2, x + (unit * wide) / 2, y - (unit * tall) / 2, y + (unit * tall) / 2];
  }

  /** Returns the initial zoom, which leaves out a few users far away from the others. */
  firstZoom([left, right, low, high]) {
    const [x, y] = [this.map.x, this.map.y].map(middle);
    const share = Math.max((x.to - x.from) / (right - left), (y.to - y.from) / (high - low));
    if (share > FULL_VIEW) return [{ start: 0, end: 100 }, { start: 0, end: 100 }];
    const zoom = (at) => {
      const half = 50 * share, center = Math.min(100 - half, Math.max(half, 100 * at));
      return { start: center - half, end: center + half };
    };
    return [zoom(((x.from + x.to) / 2 - left) / (right - left)), zoom(((y.from + y.to) / 2 - low) / (high - low))];
  }

  show(name, isShown) {
    this.hidden[isShown ? "delete" : "add"](name);
    this.chart?.redraw();
  }

  mark(places) {
    this.marked = places;
    this.chart?.redraw();
  }

  /** Returns the title of the colour and the value of a point. */
  caption(place) {
    return `${this.label}: ${this.groups[this.groupOf[place]]?.name ?? ""}`;
  }

  tools() {
    const button = (name, title, onclick, pressed) => el("button", { type: "button", class: "button", title, "aria-pressed": pressed ? "false" : undefined, onclick }, name);
    this.lasso = button("Lasso", "Draw around users", () => this.brush("polygon"), true);
    this.box = button("Box", "Draw a box around users", () => this.brush("rect"), true);
    return [
      this.lasso, this.box,
      button("+", "Zoom in", () => this.zoom(0.6)), button("−", "Zoom out", () => this.zoom(1 / 0.6)),
      button("All", "Show all users", () => this.zoom(Infinity)),
    ];
  }

  brush(type) {
    const next = this.brushing === type ? null : type;
    this.brushing = next;
    this.lasso.setAttribute("aria-pressed", String(next === "polygon"));
    this.box.setAttribute("aria-pressed", String(next === "rect"));
    this.chart?.dispatchAction({ type: "brush", areas: [] });
    this.chart?.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: next ?? false, brushMode: "single" } });
    this.host.classList.toggle("drawing", Boolean(next));
  }

  zoom(factor) {
    const zooms = this.chart?.getOption().dataZoom ?? [];
    zooms.forEach(({ start, end }, i) => {
      const half = Math.min(50, ((end - start) / 2) * factor);
      const middle = Math.min(100 - half, Math.max(half, (start + end) / 2));
      this.chart.dispatchAction({ type: "dataZoom", dataZoomIndex: i, start: middle - half, end: middle + half });
    });
  }

  listen() {
    this.chart.on("brushEnd", ({ areas }) => {
      if (!areas.length) return;
      const [{ brushType, range }] = areas;
      const corners = brushType === "rect"
        ? [[range[0][0], range[1][0]], [range[0][1], range[1][0]], [range[0][1], range[1][1]], [range[0][0], range[1][1]]]
        : range;
      const ring = corners.map((corner) => this.chart.convertFromPixel({ gridIndex: 0 }, corner));
      this.brush(this.brushing);
      this.ended = performance.now();
      this.onchosen?.(this.inside(ring));
    });
    const surface = this.chart.getZr();
    let waits = false, at = [0, 0];
    surface.on("mousemove", (event) => {
      at = [event.offsetX, event.offsetY];
      if (waits) return;
      waits = true;
      requestAnimationFrame(() => {
        waits = false;
        if (!this.signal.aborted) this.hover(at);
      });
    });
    surface.on("globalout", () => { this.tip.hidden = true; });
    surface.on("click", (event) => {
      // Ignores the click that ends a lasso at its start.
      if (this.brushing || performance.now() - (this.ended ?? -CLICK_DELAY) < CLICK_DELAY) return;
      const place = this.nearest([event.offsetX, event.offsetY]);
      if (place >= 0) this.onclicked?.(place);
    });
    let last = [this.host.clientWidth, this.host.clientHeight];
    const size = new ResizeObserver(() => {
      const now = [this.host.clientWidth, this.host.clientHeight];
      if (now[0] !== last[0] || now[1] !== last[1]) this.chart.redraw();
      last = now;
    });
    size.observe(this.host);
    this.signal.addEventListener("abort", () => size.disconnect(), { once: true });
  }

  hover(at) {
    const place = this.brushing ? -1 : this.nearest(at);
    this.tip.hidden = place < 0;
    this.host.classList.toggle("over", place >= 0);
    if (place < 0) return;
    this.tip.replaceChildren(el("b", {}, this.map.user_ids[place]), el("span", {}, this.caption(place)));
    const isRight = at[0] > this.host.clientWidth / 2;
    this.tip.style.setProperty("left", isRight ? "auto" : `${at[0] + 14}px`);
    this.tip.style.setProperty("right", isRight ? `${this.host.clientWidth - at[0] + 14}px` : "auto");
    this.tip.style.setProperty("top", `${Math.max(4, at[1] - 20)}px`);
  }

  /** Returns the index of the visible point nearest to a pixel; -1 if none is within NEAR. */
  nearest(pixel) {
    const here = this.chart.convertFromPixel({ gridIndex: 0 }, pixel);
    const there = this.chart.convertFromPixel({ gridIndex: 0 }, [pixel[0] + NEAR, pixel[1] + NEAR]);
    const wide = Math.abs(there[0] - here[0]), tall = Math.abs(there[1] - here[1]);
    const { x, y, shown } = this.map;
    let nearest = -1, best = 1;
    for (let i = 0; i < shown; i++) {
      const distance = ((x[i] - here[0]) / wide) ** 2 + ((y[i] - here[1]) / tall) ** 2;
      if (distance < best && this.isShown(i)) [nearest, best] = [i, distance];
    }
    return nearest;
  }

  isShown(place) {
    return !this.hidden.has(this.groups[this.groupOf[place]]?.name);
  }

  /** Returns the indices of the visible points inside a ring, by the even-odd rule. */
  inside(ring) {
    const { x, y, shown } = this.map;
    const places = [];
    for (let i = 0; i < shown; i++) {
      let isIn = false;
      for (let a = 0, b = ring.length - 1; a < ring.length; b = a++) {
        const [ax, ay] = ring[a], [bx, by] = ring[b];
        if (ay > y[i] !== by > y[i] && x[i] < ((bx - ax) * (y[i] - ay)) / (by - ay) + ax) isIn = !isIn;
      }
      if (isIn && this.isShown(i)) places.push(i);
    }
    return Uint32Array.from(places);
  }
}

const size = (shown) => (shown > 20_000 ? 2.4 : shown > 8_000 ? 3.2 : shown > 1_000 ? 5 : 7);

/** Returns the range of the values without OUTLIERS, with a margin at each end. */
function middle(values) {
  const sorted = Float32Array.from(values).sort();
  const [from, to] = [sorted[Math.floor(sorted.length * OUTLIERS)], sorted[Math.ceil(sorted.length * (1 - OUTLIERS)) - 1]];
  return { from: from - (to - from) * MARGIN, to: to + (to - from) * MARGIN };
}

function bounds({ x, y, shown }) {
  let left = Infinity, right = -Infinity, low = Infinity, high = -Infinity;
  for (let i = 0; i < shown; i++) {
    left = Math.min(left, x[i]);
    right = Math.max(right, x[i]);
    low = Math.min(low, y[i]);
    high = Math.max(high, y[i]);
  }
  if (right - left < 1e-9) [left, right] = [left - 1, right + 1];
  if (high - low < 1e-9) [low, high] = [low - 1, high + 1];
  return { left, right, low, high };
}
