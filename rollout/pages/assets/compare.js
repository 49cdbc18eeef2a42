"use strict";
// Runs and files beside each other, from top to bottom. `content` is described in rollout/pages/compare_content.py.

const LEVEL = 0.05; // a p value below it is no chance
const SMALLEST_P = 0.0001;
const NAMES = { truncated: "cut off" };

function comparisonOf(content) {
  const { comparison } = content;
  const sections = [
    section("overview", "Overview", tiles(comparison), notes(content)),
    section("differences", "Differences, row by row", differences(comparison)),
    section("sides", "Each by itself", sideTable(content), aboutIntervals()),
    section("curves", "pass@k", grid(passCharts(comparison))),
    sideBySide(asJobs(content), sideNaming(content)),
  ].filter(Boolean);
  const about = [element("p", { class: "when" }, whatIsCompared(comparison)), commandLine(content.command)];
  return [topBar(content.title, [], about, sections), element("main", {}, sections)];
}

function whatIsCompared({ sides, matched_by: by, clusters, pass_score: threshold }) {
  const scored = sides.some(({ estimates }) => estimates.score);
  const parts = [
    `rows matched by ${by}`,
    scored && `a response passes from a score of ${number(threshold)} on`,
    clusters && `rows of the same ${clusters} count as one group`,
  ];
  return parts.filter(Boolean).join(" · ");
}

function tiles({ sides, pairs, common, metric }) {
  const format = formatOf(metric);
  const each = sides.slice(0, 6).filter(({ estimates }) => estimates[metric]);
  const all = [
    tile("rows that all have", compact(common), `of ${sides.map(({ rows }) => compact(rows)).join(", ")}`),
    ...each.map(({ name, estimates }) => tile(`${nameOf(metric)}, ${name}`, format(estimates[metric].value), intervalText(estimates[metric], format))),
    pairs.length === 1 && differenceTile(pairs[0], metric),
  ];
  return element("div", { class: "tiles" }, all.filter(Boolean));
}

function differenceTile({ earlier, later, metrics }, metric) {
  const found = metrics[metric]?.paired;
  const value = found?.difference && signed(metric)(found.difference.value);
  return value && tile(`${later} - ${earlier}`, value, metrics[metric].untested ?? (isDecided(found) ? pText(found) : `a tie: may be chance, ${pText(found)}`));
}

function notes({ matched, notes: lines }) {
  const items = [
    ...matched.map((line) => element("li", { class: "matched" }, line)),
    ...lines.map((line) => element("li", {}, line)),
  ];
  return element("ul", { class: "notes panel" }, items);
}

/** One pair: a line per metric. Several: a line per pair, of the metric that is chosen. */
function differences({ pairs }) {
  const table = element("div", { class: "panel" });
  const metrics = [...new Set(pairs.flatMap(({ metrics }) => Object.keys(metrics)))];
  const lines = (chosen) =>
    pairs.flatMap((pair) =>
      metrics.filter((metric) => pair.metrics[metric] && (!chosen || metric === chosen)).map((metric) => lineOf(pair, metric)),
    );
  const show = (chosen) => table.replaceChildren(sortableTable(differenceColumns(pairs), lines(chosen)));
  if (pairs.length === 1) {
    show(null);
    return table;
  }
  const select = choice("metric", metrics, nameOf);
  select.addEventListener("input", () => show(select.value));
  show(metrics[0]);
  return element("div", {}, element("label", { class: "against" }, "difference in ", select), table);
}

function lineOf({ earlier, later, metrics }, metric) {
  return { pair: `${later} - ${earlier}`, earlier, later, metric, ...metrics[metric].paired, means: metrics[metric] };
}

function differenceColumns(pairs) {
  const isOfPairs = pairs.length > 1;
  const [earlier, later] = isOfPairs ? ["earlier", "later"] : [pairs[0].earlier, pairs[0].later];
  const plain = (key) => ({ value: ({ means }) => means[key], text: ({ means, metric }) => formatOf(metric)(means[key]) });
  const mean = ({ difference }) => difference?.value ?? null;
  const count = (name) => ({ name, value: (line) => line[name] });
  return [
    isOfPairs ? { name: "pair", value: ({ pair }) => pair } : { name: "", value: ({ metric }) => nameOf(metric) },
    { name: earlier, hint: "the mean of the one that is subtracted", ...plain("earlier") },
    { name: later, hint: "the mean of the other one", ...plain("later") },
    { name: "difference", hint: "later - earlier", value: mean, text: (line) => signed(line.metric)(mean(line)), strong: isDecided },
    { name: "95% interval", value: ({ difference }) => difference?.interval?.[0] ?? null, text: rangeText },
    { name: "p", hint: "how likely such a difference is if neither is better", value: ({ p }) => p, text: pCell("p") },
    { name: "p, Holm", hint: "corrected for the number of comparisons", value: ({ p_holm: p }) => p, text: pCell("p_holm") },
    count("wins"),
    count("ties"),
    count("losses"),
    count("rows"),
    { name: "says", value: (line) => (line.means.untested ? "not tested" : isDecided(line) ? "differs" : "tie"), text: verdictBadge },
    { name: "test", value: ({ test }) => test },
  ];
}

function verdictBadge(line) {
  if (line.means.untested) return badge(`not tested: ${line.means.untested}`);
  if (!isDecided(line)) return badge("tie");
  return badge(`${line.difference.value > 0 ? line.later : line.earlier} has more`, "good");
}

function pCell(key) {
  return (line) => (line[key] < SMALLEST_P ? `<${SMALLEST_P}` : line[key].toFixed(4));
}

function pText({ p, p_holm: corrected }) {
  const shown = corrected ?? p;
  if (!isPresent(shown)) return "one row, or one group of rows, says nothing";
  return shown < SMALLEST_P ? `p < ${SMALLEST_P}` : `p = ${shown.toFixed(4)}`;
}

function rangeText({ difference, metric }) {
  return intervalText(difference, signed(metric));
}

/** Whether the difference is more than chance: by its interval, if it has one, and by the corrected test. */
function isDecided({ difference, p, p_holm: corrected }) {
  const value = difference?.value ?? 0;
  const [low, high] = difference?.interval ?? [value, value];
  return (low > 0 || high < 0) && (corrected ?? p ?? 1) < LEVEL;
}

function nameOf(metric) {
  return NAMES[metric] ?? metric;
}

/** Shares as percent; a score is a number. */
function formatOf(metric) {
  return metric.includes("@") || metric === "truncated" ? percent : number;
}

function signed(metric) {
  return (value) => `${value > 0 ? "+" : ""}${formatOf(metric)(value)}`;
}

function sideTable({ comparison: { sides }, reports }) {
  const metrics = [...new Set(sides.flatMap(({ estimates }) => Object.keys(estimates)))];
  const value = (metric) => ({ estimates }) => estimates[metric]?.value ?? null;
  const columns = [
    { name: "", value: ({ name }) => name, text: ({ name }) => element("strong", {}, name) },
    { name: "what", value: ({ label }) => label, text: ({ name, label }) => sideLink(reports[name], label) },
    { name: "rows", value: ({ rows }) => rows },
    { name: "samples", value: ({ samples }) => samples },
    ...metrics.map((metric) => ({ name: nameOf(metric), value: value(metric), text: (side) => withInterval(side, metric) })),
    ...costColumns(sides),
    { name: "scorer", value: ({ scorer }) => scorer },
  ];
  return element("div", { class: "panel" }, sortableTable(columns, sides));
}

function withInterval({ estimates }, metric) {
  const format = formatOf(metric);
  return estimated(format(estimates[metric].value), estimates[metric], format);
}

function costColumns(sides) {
  const cost = (name, key, text) => ({ name, value: ({ cost }) => cost[key], text: text && (({ cost }) => text(cost[key])) });
  return [
    cost("prompt tokens", "prompt_tokens", compact),
    cost("generated", "generated_tokens", compact),
    cost("tokens / pass", "tokens_per_pass", compact),
    cost("generating", "seconds", duration),
    cost("tokens / s", "output_tok_s", compact),
    cost("machine", "machine"),
  ].filter(({ value }) => sides.map(value).some(isPresent));
}

/** `report` is relative; as a path it can lead nowhere else. */
function sideLink(report, label) {
  if (!isPresent(report)) return label;
  const path = report.split("/").map((part) => encodeURIComponent(part.toWellFormed()));
  return element("a", { href: `./${path.join("/")}` }, label);
}

/** The sides as sides.js reads jobs. */
function asJobs({ comparison: { sides, pass_score: threshold }, rows }) {
  return { jobs: sides.map(({ name, label }) => ({ num: name, label })), rows, pass_score: threshold };
}

function sideNaming({ comparison: { metric }, reports }) {
  const value = (job, { values }) => isNumber(values[job.num]) && `${nameOf(metric)} ${formatOf(metric)(values[job.num])}`;
  const elsewhere = (job, row) => row.row_ids[job.num] !== row.row_id && `row ${row.row_ids[job.num]} there`;
  const head = (job, row) => [
    element("h4", {}, job.num),
    element("code", {}, sideLink(reports[job.num], shortened(job.label, 60))),
    ...[value(job, row), elsewhere(job, row)].filter(Boolean).map((text) => badge(text)),
  ];
  return { noun: "side", title: ({ num, label }) => `${num}: ${shortened(label, 60)}`, head, filters: true };
}

const content = JSON.parse(document.getElementById("content").textContent);
document.title = `${content.title} · rollout`;
document.body.append(...comparisonOf(content));
