"use strict";
// The figures of the jobs against a swept parameter, one line per combination of the others.

const MOST_LINES = 8; // as many colours as there are
const MOST_TICKS = 12; // values of a parameter from which on the axis has round numbers
const LOG_SPAN = 20; // largest value over smallest from which on the axis is logarithmic
const JOB = "job"; // the number of the job, instead of a parameter

/** A choice of the parameter on the x axis, and the charts; null with fewer than two jobs that are done. */
function comparison({ jobs, parameters }) {
  const done = jobs.filter(isDone);
  if (done.length < 2) return null;
  const axes = [...parameters, JOB];
  const select = choice("x axis", axes, (name) => name);
  const legend = element("div");
  const charts = element("div", { class: "grid" });
  const show = () => {
    const lines = linesOf(done, parameters, select.value);
    legend.replaceChildren(...legendOf(lines));
    charts.replaceChildren(...chartsAgainst(select.value, lines, done), ...passCurves(done, parameters));
  };
  select.addEventListener("input", show);
  select.value = leastLines(done, parameters);
  show();
  const against = element("label", { class: "against" }, "against ", select);
  return element("div", {}, element("div", { class: "charts-head" }, against, legend), charts);
}

/** The parameter that asks for the fewest lines: the one with the most values. */
function leastLines(jobs, parameters) {
  const count = (parameter) => linesOf(jobs, parameters, parameter).length;
  const fewer = (best, parameter) => (count(parameter) < count(best) ? parameter : best);
  return parameters.reduce(fewer, parameters[0] ?? JOB);
}

/** [{name, jobs}, ...]: the jobs that differ in nothing but the parameter on the x axis. */
function linesOf(jobs, parameters, axis) {
  if (axis === JOB) return [{ name: "", jobs }];
  const others = parameters.filter((parameter) => parameter !== axis);
  const lines = new Map();
  for (const job of jobs.filter(({ overrides }) => isPresent(overrides[axis]))) {
    const key = JSON.stringify(others.map((parameter) => job.overrides[parameter] ?? null));
    if (!lines.has(key)) lines.set(key, { name: jobName(job, parameters, others), jobs: [] });
    lines.get(key).jobs.push(job);
  }
  return [...lines.values()];
}

/** What the colours of all charts mean, where there are several lines. */
function legendOf(lines) {
  if (lines.length < 2) return [];
  const entry = ({ name }, at) => element("li", {}, element("span", { class: `swatch series-${at}` }), name);
  const few = `the first ${MOST_LINES} of ${lines.length} combinations are drawn`;
  return [
    element("ul", { class: "legend" }, lines.slice(0, MOST_LINES).map(entry)),
    lines.length > MOST_LINES && element("p", { class: "note" }, few),
  ].filter(Boolean);
}

/** One line per combination, or when there is only one, one per metric of a group. */
function chartsAgainst(parameter, lines, jobs) {
  const x = parameterAxis(parameter, lines.flatMap(({ jobs }) => jobs));
  const shown = lines.slice(0, MOST_LINES);
  const groups = groupsOf(jobs).flatMap((group) => (lines.length > 1 ? apart(group) : [group]));
  return groups.map((group) => metricChart(group, shown, x)).filter(Boolean);
}

/** What is compared: metrics are [[name in the legend, key, title of its own chart], ...].
 *
 * `few` are those that have a chart of their own where there are several lines.
 */
function groupsOf(jobs) {
  const share = { yLabel: "share of responses", yFormat: percent };
  const lengths = [
    ["mean", "mean_tokens", "Tokens per response, mean"],
    ["p99", "p99_tokens", "Tokens per response, p99"],
  ];
  return [
    { title: "Generation speed", yLabel: "tokens / s", metrics: [["tokens / s", "output_tok_s"]] },
    { title: "Tokens per response", yLabel: "tokens", metrics: lengths },
    { title: "Cut off by max_tokens", ...share, metrics: [["cut off", "truncated_fraction"]] },
    passGroup(ksOf(jobs), ksOf(jobs, "majority@").at(-1)),
    { title: "Mean score", yLabel: "score", metrics: [["score", "mean_score"]] },
    { title: "Distinct responses per row", yLabel: "responses", metrics: [["distinct", "distinct_responses"]] },
  ];
}

function passGroup(ks, majority) {
  const rate = (name) => [name, name, name];
  const isEnd = (k) => k === 1 || k === ks.at(-1);
  const ends = ks.filter(isEnd).map((k) => rate(`pass@${k}`));
  const middle = ks.filter((k) => !isEnd(k)).map((k) => rate(`pass@${k}`));
  const few = majority > 1 ? [...ends, rate(`majority@${majority}`)] : ends;
  const metrics = [...few, ...middle].slice(0, MOST_LINES);
  return { title: "Rows that pass", yLabel: "share of rows", yFormat: percent, yMax: 1, metrics, few };
}

/** A group of several metrics as one group for each of them. */
function apart({ metrics, few = metrics, ...group }) {
  return few.map((metric) => ({ ...group, title: metric[2] ?? group.title, metrics: [metric] }));
}

function metricChart({ title, metrics, ...y }, lines, { position, ...x }) {
  const point = (metric) => (job) => [position(job), job.metrics[metric], barOf(job, metric)];
  const points = ({ jobs }, metric) => jobs.filter(({ metrics }) => isNumber(metrics[metric])).map(point(metric));
  const ascending = (found) => found.sort(([a], [b]) => a - b);
  const series = lines.flatMap((line) =>
    metrics.map(([name, metric]) => ({ name: line.name || name, points: ascending(points(line, metric)) })),
  );
  const bare = lines.length > 1;
  return series.some(({ points }) => points.length) && lineChart({ title, series, ...x, ...y, dots: true, bare });
}

/** The x axis of a parameter: {position: job -> x} and the options of lineChart. */
function parameterAxis(parameter, jobs) {
  if (parameter !== JOB && isNumeric(jobs, parameter)) return numericAxis(parameter, jobs);
  const text = (job) => (parameter === JOB ? String(job.num) : job.overrides[parameter]);
  const names = [...new Set(jobs.map(text))];
  return { position: (job) => names.indexOf(text(job)), xNames: withoutFolders(names), xLabel: parameter };
}

/** Paths by their last parts, where these tell them apart. */
function withoutFolders(names) {
  const last = names.map((name) => name.split("/").at(-1));
  return last.every(Boolean) && new Set(last).size === names.length ? last : names;
}

function numericAxis(parameter, jobs) {
  const values = [...new Set(jobs.map((job) => numeric(job, parameter)))].sort((a, b) => a - b);
  const [xMin, xMax] = [values[0], values.at(-1)];
  const xLog = xMin > 0 && xMax / xMin > LOG_SPAN;
  const xTicks = xLog || values.length <= MOST_TICKS ? values : undefined;
  return { position: (job) => numeric(job, parameter), xLabel: parameter, xMin, xMax, xLog, xTicks, xFormat: asTyped };
}

/** 0.6000000000000001, which range(0.2,1.0,0.2) gives, is 0.6. */
function asTyped(value) {
  return String(Number(value.toPrecision(12)));
}

/** pass@k over k, one line per job. */
function passCurves(jobs, parameters) {
  const ks = ksOf(jobs);
  const points = (job) =>
    ks.map((k) => [k, job.metrics[`pass@${k}`], barOf(job, `pass@${k}`)]).filter(([, share]) => isNumber(share));
  const curves = jobs.map((job) => ({ name: jobTitle(job, parameters), points: points(job) }));
  const last = ({ points }) => points.at(-1)[1];
  const there = curves.filter(({ points }) => points.length > 1).sort((a, b) => last(b) - last(a));
  if (!there.length) return [];
  const some = there.length > MOST_LINES && ` (the best ${MOST_LINES} of ${there.length} jobs)`;
  const note = `at least one of k responses passes${some || ""}`;
  const y = { yLabel: "share of rows", yFormat: percent, yMax: 1 };
  const series = there.slice(0, MOST_LINES);
  const x = { xLabel: "k", xLog: true, xTicks: ks };
  return [lineChart({ title: "pass@k of the jobs", note, series, ...x, ...y, dots: true })];
}
