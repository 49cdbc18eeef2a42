"use strict";
// Charts in SVG, drawn again when their size changes. Their colours are the style sheet's: series-0 to series-7.

const DIGIT_WIDTH = 6.6; // of the tick labels, for the room that they take
const LEAST_LABEL = 4; // characters that are left of the name of a category at least
const WHISKERS_APART = 3; // pixels
const MOST_IN_LINE = 4; // texts of the label at the pointer; more stand below each other

/** Lines over a common x axis.
 *
 * series: [{name, points: [[x, y], ...]}], the points ascending in x; [x, y, bar] has an error bar. xMin, xMax, yMax: ends of the axes, else the
 * data's. xTicks: where the x axis is labelled, else round numbers. xLog: base-2 logarithm. dots: mark every point.
 * xNames: names of categories, which stand at x = 0, 1, ... bare: no legend, because there is one elsewhere.
 */
function lineChart({ title, note, series, xFormat = number, yFormat = number, ...options }) {
  const { yLabel, yMax, dots, bare } = options;
  const points = series.flatMap(({ points }) => points);
  const xs = [...new Set(points.map(([x]) => x))].sort((a, b) => a - b);
  const ys = points.flatMap(([, y, bar]) => [y, ...(bar?.interval ?? [])]);
  const y = { ...axis(Math.min(0, ...ys), yMax ?? Math.max(0, ...ys)), label: yLabel, format: yFormat };
  const x = lineAxis(xs, xFormat, options);
  const read = ({ name, points }, at) => points.filter(([x]) => x === at).map(([, y, bar]) => `${name} ${withBar(y, bar, yFormat)}`);
  const at = (value) => (options.xNames ? x.format(value) : `${x.format(value)} ${x.label}`);
  const describe = (index) => [at(xs[index]), ...series.flatMap((line) => read(line, xs[index]))];
  const draw = (width, height) => {
    const plot = plane(width, height, x, y);
    plot.svg.append(...series.flatMap((line, index) => drawLine(plot, line.points, index, dots, aside(index, series))));
    return withHover(plot, xs.map(plot.x), describe);
  };
  return chart({ title, note, legend: series.length > 1 && !bare ? series.map(({ name }) => name) : [], draw });
}

/** "40% (35% to 45%)". */
function withBar(value, bar, format) {
  const range = intervalText(bar, format);
  return range === null ? format(value) : `${format(value)} (${range})`;
}

function lineAxis(xs, format, { xLabel: label, xMin: low = xs[0], xMax: high = xs.at(-1), ...x }) {
  const { xTicks, xLog: log, xNames: names } = x;
  if (!names) return { low, high, ticks: xTicks ?? ticks(low, high), label, format, log };
  const category = (at) => names[at];
  return { low: -0.5, high: names.length - 0.5, ticks: [...names.keys()], label, format: category, shorten: true };
}

/** Bars between edges.
 *
 * histogram: {edges: n + 1 ascending numbers, counts: n numbers}. marks: [[name, value], ...], drawn as vertical lines.
 */
function histogramChart({ title, note, histogram: { edges, counts }, xLabel, yLabel, xFormat = number, marks = [] }) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const y = { ...axis(0, Math.max(...counts), 1), label: yLabel, format: number };
  const x = { low: edges[0], high: edges.at(-1), ticks: ticks(edges[0], edges.at(-1)), label: xLabel, format: xFormat };
  const describe = (at) => [
    `${bin(edges[at], edges[at + 1], xFormat)} ${xLabel}`,
    `${number(counts[at])} ${yLabel} (${percent(counts[at] / total)})`,
  ];
  const draw = (width, height) => {
    const plot = plane(width, height, x, y);
    plot.svg.append(...counts.map((count, at) => drawBar(plot, edges[at], edges[at + 1], count)));
    plot.svg.append(...marks.map(([name, value]) => drawMark(plot, name, value)));
    return withHover(plot, counts.map((_, at) => (plot.x(edges[at]) + plot.x(edges[at + 1])) / 2), describe);
  };
  return chart({ title, note, draw });
}

/** "10 to 20"; "7" for the bin from 6.5 to 7.5, which is one integer's. */
function bin(from, to, format) {
  const isOfOneInteger = to - from === 1 && Number.isInteger(from + 0.5);
  return isOfOneInteger ? format(from + 0.5) : `${format(from)} to ${format(to)}`;
}

/** One horizontal bar per name. bars: [{name, value, text, tone}]; the longest fills the width, or `full` does. */
function barChart({ title, note, bars, full = Math.max(...bars.map(({ value }) => value)) }) {
  const rows = bars.map(({ name, value, text, tone = "series-0" }) => {
    const bar = element("span", { class: `bar ${tone}` });
    bar.style.width = `${full ? (100 * value) / full : 0}%`;
    const part = (kind, content) => element("span", { class: kind }, content);
    return element("li", {}, part("name", name), part("track", bar), part("value", text));
  });
  return figure(title, note, element("ul", { class: "bars" }, rows));
}

function figure(title, note, ...content) {
  const caption = element("figcaption", {}, element("h3", {}, title), note && element("p", {}, note));
  return element("figure", { class: "panel chart" }, caption, ...content);
}

function chart({ title, note, legend = [], draw }) {
  const plot = element("div", { class: "plot", role: "img", "aria-label": note ? `${title}: ${note}` : title });
  const redraw = () => plot.clientWidth && plot.replaceChildren(...draw(plot.clientWidth, plot.clientHeight));
  new ResizeObserver(redraw).observe(plot);
  const swatch = (index) => element("span", { class: `swatch series-${index}` });
  const names = legend.map((name, index) => element("li", {}, swatch(index), name));
  return figure(title, note, names.length > 0 && element("ul", { class: "legend" }, names), plot);
}

/** About `count` round numbers (1, 2 or 5 times a power of ten, at least `smallest` apart) within [low, high]. */
function ticks(low, high, count = 5, smallest = 0) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = Math.max(smallest, [1, 2, 5, 10].map((factor) => factor * power).find((step) => span / step <= count));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, index) => (first + index) * step);
}

/** An axis from `low` to the first round number from `high` on. */
function axis(low, high, smallest = 0) {
  const inside = ticks(low, high || 1, 4, smallest);
  const step = inside.length > 1 ? inside[1] - inside[0] : high - low || 1;
  const top = high > inside.at(-1) * (1 + 1e-9) ? inside.at(-1) + step : inside.at(-1);
  return { low, high: top || 1, ticks: top > inside.at(-1) ? [...inside, top] : inside };
}

/** The empty plane: {svg, x and y from values to pixels, left, right, top, bottom in pixels}. */
function plane(width, height, x, y) {
  const left = 10 + DIGIT_WIDTH * Math.max(...y.ticks.map((tick) => y.format(tick).length));
  const box = { left, right: width - 20, top: 22, bottom: height - 36 };
  const position = (axis, from, to) => {
    const at = axis.log ? Math.log2 : (value) => value;
    const span = at(axis.high) - at(axis.low);
    return (value) => from + (span ? (at(value) - at(axis.low)) / span : 0.5) * (to - from);
  };
  const plot = { ...box, x: position(x, box.left, box.right), y: position(y, box.bottom, box.top) };
  plot.svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...drawAxes(plot, x, y));
  return plot;
}

function drawAxes({ left, right, bottom, top, ...plot }, x, y) {
  const text = (label, attributes) => shape("text", attributes, label);
  const xLabel = shortened(x.label, Math.floor((right - left) / DIGIT_WIDTH));
  return [
    ...y.ticks.map((tick) => shape("line", { class: "grid", x1: left, x2: right, y1: plot.y(tick), y2: plot.y(tick) })),
    ...y.ticks.map((tick) => text(y.format(tick), { x: left - 6, y: plot.y(tick) + 4, "text-anchor": "end" })),
    ...xLabels(plot, x, right - left).map(([at, it]) => text(it, { x: at, y: bottom + 16, "text-anchor": "middle" })),
    text(y.label, { x: 0, y: top - 11, class: "label" }),
    text(xLabel, { x: (left + right) / 2, y: bottom + 32, class: "label", "text-anchor": "middle" }),
  ];
}

/** [[position, label], ...] of the ticks, without the labels that would run into the one before. */
function xLabels(plot, { ticks, format, shorten }, width) {
  const room = Math.max(Math.floor(width / ticks.length / DIGIT_WIDTH) - 1, LEAST_LABEL);
  const label = (tick) => (shorten ? shortened(format(tick), room) : format(tick));
  let free = -Infinity;
  return ticks.flatMap((tick) => {
    const it = label(tick);
    const half = ((it.length + 1) * DIGIT_WIDTH) / 2;
    if (plot.x(tick) - half < free) return [];
    free = plot.x(tick) + half;
    return [[plot.x(tick), it]];
  });
}

/** Pixels that the whiskers of a line stand beside its points, so that those of several lines can be told apart. */
function aside(index, { length }) {
  return WHISKERS_APART * (index - (length - 1) / 2);
}

function drawLine(plot, points, index, dots, aside) {
  const path = points.map(([x, y]) => `${plot.x(x).toFixed(1)},${plot.y(y).toFixed(1)}`).join(" ");
  const marked = dots || points.length === 1 ? points : [];
  return [
    ...points.filter(([, , bar]) => bar?.interval).map((point) => drawWhisker(plot, point, index, aside)),
    shape("polyline", { class: `line series-${index}`, points: path }),
    ...marked.map(([x, y]) => shape("circle", { class: `dot series-${index}`, cx: plot.x(x), cy: plot.y(y), r: 3.5 })),
  ];
}

/** The interval of a point as a vertical line. */
function drawWhisker(plot, [x, , { interval: [low, high] }], index, aside) {
  const at = plot.x(x) + aside;
  return shape("line", { class: `whisker series-${index}`, x1: at, x2: at, y1: plot.y(low), y2: plot.y(high) });
}

function drawBar(plot, from, to, count) {
  const x = plot.x(from) + 0.5;
  const width = Math.max(plot.x(to) - plot.x(from) - 1, 0.5);
  const height = count ? Math.max(plot.bottom - plot.y(count), 1.5) : 0; // one of thousands must still be seen
  return shape("rect", { class: "bar series-0", x, width, y: plot.bottom - height, height });
}

function drawMark(plot, name, value) {
  const x = plot.x(value);
  const anchor = x > (plot.left + plot.right) / 2 ? { x: x - 4, "text-anchor": "end" } : { x: x + 4 };
  const line = shape("line", { class: "mark", x1: x, x2: x, y1: plot.top - 6, y2: plot.bottom });
  return shape("g", {}, line, shape("text", { ...anchor, y: plot.top - 1, class: "label" }, name));
}

/** The plot, and a label above it that follows the pointer from one position (in pixels) to the next. */
function withHover(plot, positions, describe) {
  const guide = shape("line", { class: "guide", y1: plot.top, y2: plot.bottom, visibility: "hidden" });
  const label = element("div", { class: "tip", hidden: true });
  const show = (event) => {
    const pointer = event.clientX - plot.svg.getBoundingClientRect().left;
    const at = nearest(positions, pointer);
    guide.setAttribute("x1", positions[at]);
    guide.setAttribute("x2", positions[at]);
    guide.setAttribute("visibility", "visible");
    label.hidden = false;
    const texts = describe(at);
    label.textContent = texts.join(texts.length > MOST_IN_LINE ? "\n" : " · ");
    const left = Math.min(positions[at] - label.offsetWidth / 2, plot.right - label.offsetWidth);
    label.style.left = `${Math.max(left, 0)}px`;
  };
  const hide = () => {
    label.hidden = true;
    guide.setAttribute("visibility", "hidden");
  };
  plot.svg.append(guide);
  plot.svg.addEventListener("pointermove", show);
  plot.svg.addEventListener("pointerleave", hide);
  return [plot.svg, label];
}

function nearest(positions, pointer) {
  const distance = (at) => Math.abs(positions[at] - pointer);
  return positions.reduce((best, _, at) => (distance(at) < distance(best) ? at : best), 0);
}
