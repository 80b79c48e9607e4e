// Apache ECharts in the page's colours, drawn on canvas. Tooltips are drawn too: no text becomes markup.
// In: an element, a function from colours to an ECharts option, a signal. Out: a chart that follows
// its element's size and the theme, and ends with its view.

import { el } from "./dom.js";

let loading = null;

/** ECharts itself: a megabyte, asked for before the first chart alone. */
export function echarts() {
  loading ??= new Promise((resolve, reject) => {
    const script = el("script", { src: "/page/echarts.min.js" });
    script.onload = () => resolve(window.echarts);
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Error("echarts.min.js did not come"));
    };
    document.head.append(script);
  });
  return loading;
}

/** Ask for ECharts while the answers to be drawn are on their way. */
export const ahead = () => { echarts().catch(() => {}); };

const NAMES = ["ink", "muted", "faint", "line", "surface", "accent", "accent-soft", "good", "bad",
  ...Array.from({ length: 12 }, (_, i) => `hue-${i}`)];

/** The colours of style.css as they are now. */
export function colours() {
  const probe = el("i", { hidden: true });
  document.body.append(probe);
  const found = {};
  for (const name of NAMES) {
    probe.style.color = `var(--${name})`;
    found[name] = getComputedStyle(probe).color;
  }
  found.font = getComputedStyle(document.body).fontFamily;
  found.hues = NAMES.filter((name) => name.startsWith("hue-")).map((name) => found[name]);
  probe.remove();
  return found;
}

export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** What all charts have in common. */
function common(c) {
  return {
    animation: !isStill(),
    animationDuration: 250,
    animationDurationUpdate: 200,
    textStyle: { fontFamily: c.font, color: c.muted },
    color: c.hues,
  };
}

export function tooltip(c, more = {}) {
  return {
    renderMode: "richText", confine: true, backgroundColor: c.surface, borderColor: c.line, borderWidth: 1,
    padding: [8, 10], textStyle: { color: c.ink, fontSize: 12, fontFamily: c.font }, ...more,
  };
}

/** Text of the data in a drawn tooltip: braces and bars would be read as styles. */
export const safe = (text) => String(text).replaceAll("{", "(").replaceAll("}", ")").replaceAll("|", "¦");

export function axis(c, more = {}) {
  return {
    axisLine: { lineStyle: { color: c.line } }, axisTick: { show: false },
    axisLabel: { color: c.muted, fontSize: 11, hideOverlap: true, ...more.axisLabel },
    splitLine: { lineStyle: { color: c.line, width: 1 }, ...more.splitLine },
    nameTextStyle: { color: c.muted, fontSize: 11 },
    ...Object.fromEntries(Object.entries(more).filter(([key]) => key !== "axisLabel" && key !== "splitLine")),
  };
}

/** A slider under a chart of time. */
export function zoom(c, more = {}) {
  return [
    { type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, ...more },
    {
      type: "slider", height: 22, bottom: 4, borderColor: "transparent", backgroundColor: c.faint,
      fillerColor: c["accent-soft"], handleStyle: { color: c.surface, borderColor: c.accent }, moveHandleSize: 0,
      dataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } },
      selectedDataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } },
      textStyle: { color: c.muted, fontSize: 10 }, brushSelect: false, ...more,
    },
  ];
}

export async function chart(host, option, { label, signal }) {
  host.setAttribute("role", "img");
  host.setAttribute("aria-label", label);
  const library = await echarts();
  if (signal?.aborted || !host.isConnected) return null;
  const made = library.init(host, null, { renderer: "canvas" });
  const draw = () => {
    const c = colours();
    made.setOption({ ...common(c), ...option(c) }, { notMerge: true });
  };
  draw();
  const size = new ResizeObserver(() => made.resize());
  size.observe(host);
  window.addEventListener("themechange", draw);
  const end = () => {
    size.disconnect();
    window.removeEventListener("themechange", draw);
    made.dispose();
  };
  signal?.addEventListener("abort", end, { once: true });
  made.redraw = draw;
  made.end = end;
  return made;
}
