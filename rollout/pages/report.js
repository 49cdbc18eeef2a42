"use strict";
// The report, from top to bottom. The shape of `content` is described in rollout/pages/content.py.

const STATUS_TONES = { done: "good", running: "plain", interrupted: "warn", failed: "bad", killed: "bad" };
const WARN_TRUNCATED = 0.1; // share of responses cut off from which the number is coloured

function report(content) {
  const { run, analysis } = content;
  const sections = [
    section("overview", "Overview", tiles(content), run && run.facts.length > 0 && facts(run.facts)),
    section("throughput", "Throughput", grid(throughputCharts(content))),
    section("responses", "Responses", grid(responseCharts(analysis))),
    section("scores", "Scores", analysis.scores && grid(scoreCharts(analysis.scores))),
    section("groups", `By ${analysis.by}`, groupTable(analysis)),
    section("errors", "Errors", errorTable(analysis)),
    rowBrowser(content),
    section("run", "Run", ...(run ? runDetails(run) : [])),
  ].filter(Boolean);
  return [topBar(content, sections), element("main", {}, sections)];
}

function topBar({ title, run }, sections) {
  const links = sections.map(({ id, firstChild }) => element("a", { href: `#${id}` }, firstChild.textContent));
  return element(
    "header",
    { class: "top" },
    element("div", { class: "heading" }, element("span", { class: "product" }, "rollout"), element("h1", {}, title), run && badge(run.status, STATUS_TONES[run.status]), themeButton()),
    run && element("p", { class: "when" }, whenItRan(run)),
    run?.error && element("p", { class: "error" }, run.error),
    element("nav", { "aria-label": "sections" }, links),
  );
}

function whenItRan({ started, ended }) {
  const moment = (iso) => `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const took = ended && `, took ${duration((new Date(ended) - new Date(started)) / 1000)}`;
  return `started ${moment(started)}${took ?? ""}`;
}

function tiles({ run, analysis }) {
  const { scores } = analysis;
  const totals = run?.totals;
  const answered = analysis.samples - analysis.failed;
  const bestOf = Object.entries(scores?.pass_at_k ?? {}).at(-1);
  return element("div", { class: "tiles" }, [
    tile("rows", compact(analysis.rows), analysis.rows_with_errors > 0 && `${number(analysis.rows_with_errors)} with errors`),
    tile("samples", compact(analysis.samples), analysis.failed > 0 ? `${number(analysis.failed)} failed` : "none failed", analysis.failed > 0 && "bad"),
    totals && tile("generated tokens", compact(totals.generated_tokens), `${compact(totals.prompt_tokens)} in prompts`),
    run?.throughput && tile("tokens / s", compact(run.throughput.output_tok_s), `${number(run.throughput.samples_s)} samples / s`),
    scores && tile("pass rate", percent(scores.pass_rate), `mean score ${number(scores.mean)}`),
    bestOf && Number(bestOf[0]) > 1 && tile(`pass@${bestOf[0]}`, percent(bestOf[1]), "at least one passes"),
    answered > 0 && tile("cut off", percent(analysis.truncated_fraction), "by max_tokens", analysis.truncated_fraction >= WARN_TRUNCATED && "warn"),
    analysis.tokens && tile("tokens / response", number(analysis.tokens.p50), `median, mean ${number(analysis.tokens.mean)}`),
  ]);
}

function tile(name, value, note, tone) {
  return element("div", { class: `tile ${tone || ""}` }, element("div", { class: "name" }, name), element("div", { class: "value" }, value), note && element("div", { class: "note" }, note));
}

function facts(pairs) {
  return element("dl", { class: "facts panel" }, pairs.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
}

function grid(charts) {
  const there = charts.filter(Boolean);
  return there.length > 0 && element("div", { class: "grid" }, there);
}

function throughputCharts({ run, series }) {
  const time = timeAxis(series);
  const line = (name, key) => ({ name, points: series.filter((point) => isNumber(point[key])).map((point) => [point.seconds / time.unit, point[key]]) });
  const over = (title, note, yLabel, ...lines) => {
    const drawn = lines.filter(({ points }) => points.length);
    return drawn.length > 0 && lineChart({ title, note, series: drawn, xLabel: time.label, yLabel, xMin: 0 });
  };
  return [
    over("Generation speed", null, "tokens / s", line("now", "output_tok_s_now"), line("since the start", "output_tok_s")),
    over("Progress", null, "samples done", line("samples", "samples_done")),
    over("In the engine", null, "requests", line("running", "running"), line("waiting", "waiting")),
    timeSpent(run?.seconds ?? {}),
  ];
}

function timeAxis(series) {
  const longest = series.at(-1)?.seconds ?? 0;
  if (longest < 300) return { unit: 1, label: "seconds" };
  return longest < 3 * 3600 ? { unit: 60, label: "minutes" } : { unit: 3600, label: "hours" };
}

function timeSpent(seconds) {
  const bars = Object.entries(seconds).map(([name, value]) => ({ name, value, text: duration(value) }));
  return bars.length > 0 && barChart({ title: "Where the time went", bars });
}

function responseCharts(analysis) {
  return [
    lengthChart("Tokens per response", analysis.tokens, "tokens", "responses"),
    lengthChart("Characters per response", analysis.characters, "characters", "responses"),
    lengthChart("Distinct responses per row", analysis.distinct_responses, "distinct responses", "rows"),
    stacked(finishReasons(analysis), quality(analysis)),
  ];
}

/** Low charts that share a place of the grid. */
function stacked(...charts) {
  const there = charts.filter(Boolean);
  return there.length > 0 && element("div", { class: "stack" }, there);
}

function lengthChart(title, lengths, xLabel, yLabel) {
  if (!lengths?.histogram) return null;
  const { mean, std, p50, p90, p99, max, histogram } = lengths;
  const note = `mean ${number(mean)} ± ${number(std)} · p90 ${number(p90)} · p99 ${number(p99)} · max ${number(max)}`;
  return histogramChart({ title, note, histogram, xLabel, yLabel, marks: [[`median ${number(p50)}`, p50]] });
}

/** Bars as shares of all samples. */
function shares(title, samples, counts) {
  const bars = counts.map(([name, count, tone]) => ({ name, value: count, text: `${number(count)}  ${percent(count / samples)}`, tone }));
  return samples > 0 && bars.length > 0 && barChart({ title, note: `of ${plural(samples, "sample")}`, bars, full: samples });
}

function finishReasons({ samples, failed, finish_reasons: reasons }) {
  const counts = Object.entries(reasons ?? {}).map(([name, count]) => [name, count, name === "stop" ? "series-0" : "warn"]);
  return shares("Finish reasons", samples, [...counts, ...(failed ? [["failed", failed, "bad"]] : [])]);
}

function quality({ samples, ...analysis }) {
  const notes = [["duplicates", "duplicate"], ["looping", "looping"], ["empty", "empty"]];
  return shares("Repeated and empty responses", samples, notes.filter(([key]) => isNumber(analysis[key])).map(([key, name]) => [name, analysis[key], "warn"]));
}

function scoreCharts(scores) {
  const unscored = scores.unscored > 0 ? `, ${number(scores.unscored)} could not be scored` : "";
  return [
    passAtK(scores),
    scores.row_pass_rates && histogramChart({ title: "Pass rate of a row", note: "left: too hard, right: too easy", histogram: scores.row_pass_rates, xLabel: "share of its responses that pass", yLabel: "rows", xFormat: percent }),
    scores.histogram && histogramChart({ title: "Scores", note: `mean ${number(scores.mean)} of ${plural(scores.scored, "response")}${unscored}`, histogram: scores.histogram, xLabel: "score", yLabel: "responses" }),
  ];
}

function passAtK({ pass_at_k: pass = {}, majority_at_k: majority = {} }) {
  const points = (values) => Object.entries(values ?? {}).map(([k, share]) => [Number(k), share]);
  const series = [{ name: "pass@k", points: points(pass) }, { name: "majority@k", points: points(majority) }].filter((line) => line.points.length);
  if (!series.length) return null;
  const options = { yLabel: "share of rows", yFormat: percent, yMax: 1, xLog: true, dots: true, xTicks: series[0].points.map(([k]) => k) };
  return lineChart({ title: "pass@k", note: "at least one of k responses passes", series, xLabel: "k", ...options });
}

function groupTable({ by, groups }) {
  const rows = Object.entries(groups ?? {});
  const column = (name, value, format, share) => ({ name, value: ([, group]) => value(group), text: format && ((row) => format(value(row[1]))), share: share && (([, group]) => value(group)) });
  const best = (group) => Object.values(group.scores?.pass_at_k ?? {}).at(-1);
  const largest = Object.keys(rows[0]?.[1].scores?.pass_at_k ?? {}).at(-1);
  const columns = [
    { name: by, value: ([name]) => name },
    column("rows", (group) => group.rows),
    column("samples", (group) => group.samples),
    column("failed", (group) => group.failed),
    column("pass rate", (group) => group.scores?.pass_rate, percent, true),
    largest > 1 && column(`pass@${largest}`, best, percent, true),
    column("mean score", (group) => group.scores?.mean),
    column("tokens, mean", (group) => group.tokens?.mean),
    column("tokens, p90", (group) => group.tokens?.p90),
    column("cut off", (group) => group.truncated_fraction, percent, true),
    column("distinct / row", (group) => group.distinct_responses?.mean),
  ];
  return rows.length > 0 && element("div", { class: "panel" }, sortableTable(columns.filter(Boolean), rows));
}

function errorTable({ errors }) {
  const rows = Object.entries(errors ?? {});
  const columns = [{ name: "samples", value: ([, count]) => count }, { name: "error", value: ([text]) => text, wide: true }];
  return rows.length > 0 && element("div", { class: "panel" }, sortableTable(columns, rows));
}

function runDetails({ command, run_dir: folder, config, provenance }) {
  return [
    element("div", { class: "panel command" }, element("code", {}, command), copyButton(command)),
    folded(`Config (${plural(Object.keys(config).length, "key")})`, searchableDefinitions(Object.entries(config), "Search the config")),
    folded("Provenance", definitions([["folder", folder], ...Object.entries(provenance)])),
  ];
}

const content = JSON.parse(document.getElementById("content").textContent);
document.title = `${content.title} · rollout`;
document.body.append(...report(content));
