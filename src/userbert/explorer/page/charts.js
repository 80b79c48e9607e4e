// Apache ECharts in the page's colours, on canvas. The canvas also draws tooltips: text is never markup.
// In: an element, a function from colours to an ECharts option, an abort signal. Out: a chart that
// follows its element's size and the theme, and is disposed when the view is left.

import { el } from "./dom.js";

let loading = null;

/** Loads ECharts (1 MB) once, when the first chart needs it. */
export function echarts() {
  loading ??= new Promise((resolve, reject) => {
    const script = el("script", { src: "/page/echarts.min.js" });
    script.onload = () => resolve(window.echarts);
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Error("echarts.min.js could not be loaded"));
    };
    document.head.append(script);
  });
  return loading;
}

/** Starts to load ECharts while a view waits for its data. */
export const preload = () => { echarts().catch(() => {}); };

const NAMES = ["ink", "muted", "faint", "line", "surface", "accent", "accent-soft", "good", "bad",
  ...Array.from({ length: 12 }, (_, i) => `hue-${i}`)];

/** Reads the colours of style.css in the current theme. */
export function colours() {
  const probe = el("i", { hidden: true });
  document.body.append(probe);
  const result = {};
  for (const name of NAMES) {
    probe.style.color = `var(--${name})`;
    result[name] = getComputedStyle(probe).color;
  }
  result.font = getComputedStyle(document.body).fontFamily;
  result.hues = NAMES.filter((name) => name.startsWith("hue-")).map((name) => result[name]);
  probe.remove();
  return result;
}

export const prefersLessMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Options of every chart; `c` holds the colours by name. */
function common(c) {
  return {
    animation: !prefersLessMotion(),
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

/** Escapes text for a tooltip: ECharts would read braces and bars as styles. */
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

/** Zoom of a time chart: by a slider below, or by Ctrl and the mouse wheel. */
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
  const instance = library.init(host, null, { renderer: "canvas" });
  const draw = () => {
    const c = colours();
    instance.setOption({ ...common(c), ...option(c) }, { notMerge: true });
  };
  draw();
  const size = new ResizeObserver(() => instance.resize());
  size.observe(host);
  window.addEventListener("themechange", draw);
  const end = () => {
    size.disconnect();
    window.removeEventListener("themechange", draw);
    instance.dispose();
  };
  signal?.addEventListener("abort", end, { once: true });
  instance.redraw = draw;
  instance.end = end;
  return instance;
}
