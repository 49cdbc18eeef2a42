"use strict";
// The report, from top to bottom. The shape of `content` is described in rollout/pages/content.py.

const WARN_TRUNCATED = 0.1; // share of responses cut off from which the number is coloured

function report(content) {
  const { run, analysis } = content;
  const sections = [
    section("overview", "Overview", tiles(content), hasIntervals(analysis) && aboutIntervals(` over ${analysis.clusters}`), run?.facts.length > 0 && definitions(run.facts, "facts panel")),
    section("throughput", "Throughput", grid(throughputCharts(content))),
    section("replicas", "Replicas", replicaChart(content), run && replicaTable(run.replicas, analysis)),
    section("responses", "Responses", grid(responseCharts(analysis))),
    section("scores", "Scores", ...(analysis.scores?.scored > 0 ? scoreParts(analysis.scores) : [])),
    section("groups", `By ${analysis.by}`, groupTable(analysis)),
    section("errors", "Errors", errorTable(analysis)),
    rowBrowser(content),
    section("run", "Run", ...(run ? runDetails(run) : [])),
  ].filter(Boolean);
  const status = run && badge(run.status, STATUS_TONES[run.status]);
  const about = run && [element("p", { class: "when" }, whenItRan(run)), errorLine(run)];
  return [topBar(content.title, [status], about, sections), element("main", {}, sections)];
}

function hasIntervals({ estimates, scores }) {
  return [estimates, scores?.estimates].some((found) => Object.keys(found ?? {}).length > 0);
}

/** "by max_tokens, 6.1% to 14%": what there is of it. */
function noteWith(text, bar, format) {
  return [text, intervalText(bar, format)].filter(Boolean).join(", ");
}

function errorLine({ error }) {
  return error && element("p", { class: "error" }, error);
}

function whenItRan({ started, ended }) {
  const moment = (iso) => `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const took = ended && `, took ${duration((new Date(ended) - new Date(started)) / 1000)}`;
  return `started ${moment(started)}${took ?? ""}`;
}

function tiles({ run, analysis }) {
  const all = [...countTiles(analysis), ...speedTiles(run), ...scoreTiles(analysis.scores), ...lengthTiles(analysis)];
  return element("div", { class: "tiles" }, all.filter(Boolean));
}

function countTiles({ rows, rows_with_errors: bad, samples, failed }) {
  return [
    tile("rows", compact(rows), bad > 0 && `${number(bad)} with errors`),
    tile("samples", compact(samples), failed > 0 ? `${number(failed)} failed` : "none failed", failed > 0 ? "bad" : ""),
  ];
}

function speedTiles(run) {
  const { totals, throughput: rate } = run ?? {};
  return [
    totals && tile("generated tokens", compact(totals.generated_tokens), `${compact(totals.prompt_tokens)} in prompts`),
    rate && tile("tokens / s", compact(rate.output_tok_s), `${number(rate.samples_s)} samples / s`),
  ];
}

function scoreTiles(scores) {
  if (!scores?.scored) return [];
  const [k, share] = largestK(scores);
  return [
    tile("pass rate", percent(scores.pass_rate), noteWith(null, scores.estimates?.pass_rate, percent)),
    scores.mean !== scores.pass_rate && tile("mean score", number(scores.mean), noteWith(null, scores.estimates?.mean, number)),
    k > 1 && tile(`pass@${k}`, percent(share), noteWith("at least one passes", scores.estimates?.[`pass@${k}`], percent)),
  ];
}

function lengthTiles({ samples, failed, truncated_fraction: cut, tokens, estimates }) {
  const note = noteWith("by max_tokens", estimates?.truncated_fraction, percent);
  return [
    samples > failed && isNumber(cut) && tile("cut off", percent(cut), note, cut >= WARN_TRUNCATED ? "warn" : ""),
    tokens && tile("tokens / response", number(tokens.p50), `median, mean ${number(tokens.mean)}`),
  ];
}

/** The largest k and its pass@k; [0, null] without scores. */
function largestK(scores) {
  const [k, share] = Object.entries(scores?.pass_at_k ?? {}).at(-1) ?? [0, null];
  return [Number(k), share];
}

function throughputCharts({ run, series }) {
  const time = timeAxis(series);
  const measured = (key) => series.filter((point) => isNumber(point[key]));
  const line = (name, key) => ({ name, points: measured(key).map((point) => [point.seconds / time.unit, point[key]]) });
  const over = (title, yLabel, ...lines) => {
    const drawn = lines.filter(({ points }) => points.length);
    return drawn.length > 0 && lineChart({ title, series: drawn, xLabel: time.label, yLabel, xMin: 0 });
  };
  return [
    over("Generation speed", "tokens / s", line("now", "output_tok_s_now"), line("since the start", "output_tok_s")),
    over("Progress", "samples done", line("samples", "samples_done")),
    over("In the engine", "requests", line("running", "running"), line("waiting", "waiting")),
    timeSpent(run?.seconds ?? {}),
  ];
}

/** A line for each replica, or for the slowest, the median and the fastest of many. */
function replicaChart({ replica_lines: names, series }) {
  const time = timeAxis(series);
  const rates = (at) => series.filter((point) => isNumber(point.replica_tok_s_now?.[at]));
  const points = (at) => rates(at).map((point) => [point.seconds / time.unit, point.replica_tok_s_now[at]]);
  const lines = names.map((name, at) => ({ name, points: points(at) })).filter(({ points }) => points.length);
  const axes = { xLabel: time.label, yLabel: "tokens / s", xMin: 0 };
  return lines.length > 0 && grid([lineChart({ title: "Speed of each replica, now", series: lines, ...axes })]);
}

function replicaTable(replicas, { samples: all }) {
  const rows = replicas.map((replica, index) => ({ ...replica, index }));
  const figures = (name, key, text) => ({ name, value: (row) => row[key], text });
  const fastest = Math.max(...rows.map((row) => row.output_tok_s ?? 0)) || 1;
  const columns = [
    { name: "replica", value: ({ index }) => String(index) },
    figures("host", "host"),
    figures("GPU", "gpus"),
    figures("samples", "samples"),
    figures("tokens", "generated_tokens"),
    { ...figures("tokens / s", "output_tok_s"), share: (row) => row.output_tok_s / fastest },
    figures("loading", "load_seconds", (row) => duration(row.load_seconds)),
    figures("restarts", "restarts"),
  ];
  const sampled = rows.reduce((sum, row) => sum + row.samples, 0);
  const part = `of the newest session, which generated ${number(sampled)} of the ${plural(all, "sample")}`;
  return rows.length > 0 && element(
    "div",
    {},
    sampled < all && element("p", { class: "when" }, part),
    element("div", { class: "panel" }, sortableTable(columns, rows)),
  );
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
    lengthChart("Tokens of thinking per response", analysis.thinking?.tokens, "tokens", "responses"),
    lengthChart("Characters per response", analysis.characters, "characters", "responses"),
    lengthChart("Distinct responses per row", analysis.distinct_responses, "distinct responses", "rows"),
    stacked(finishReasons(analysis), repeats(analysis)),
  ];
}

function lengthChart(title, lengths, xLabel, yLabel) {
  if (!lengths?.histogram) return null;
  const { mean, std, p50, p90, p99, max, histogram } = lengths;
  const quantiles = `p90 ${number(p90)} · p99 ${number(p99)} · max ${number(max)}`;
  const note = `mean ${number(mean)} ± ${number(std)} · ${quantiles}`;
  return histogramChart({ title, note, histogram, xLabel, yLabel, marks: [[`median ${number(p50)}`, p50]] });
}

/** Bars as shares of the responses; counts: [[name, count, tone, error bar], ...]. */
function shares(title, responses, counts) {
  const text = (count, bar) => `${number(count)}  ${withBar(bar?.value ?? count / responses, bar, percent)}`;
  const bars = counts.map(([name, count, tone, bar]) => ({ name, value: count, text: text(count, bar), tone }));
  const note = `of ${plural(responses, "response")}`;
  return responses > 0 && bars.length > 0 && barChart({ title, note, bars, full: responses });
}

/** Of the responses whose finish reason is known. */
function finishReasons({ finish_reasons: reasons, estimates = {} }) {
  const tone = (name) => (name === "stop" ? "series-0" : "warn");
  const bar = (name) => estimates[name === "length" ? "truncated_fraction" : `${name}_fraction`];
  const counts = Object.entries(reasons ?? {}).map(([name, count]) => [name, count, tone(name), bar(name)]);
  const known = counts.reduce((sum, [, count]) => sum + count, 0);
  return shares("Finish reasons", known, counts);
}

function repeats({ samples, failed, duplicates, looping, empty, thinking, estimates = {} }) {
  const counts = [
    ["duplicate", duplicates],
    ["looping", looping],
    ["empty", empty],
    ["never closed", thinking?.unclosed],
  ].filter(([, count]) => isNumber(count));
  const bar = (name) => estimates[name === "never closed" ? "unclosed_fraction" : `${name}_fraction`];
  const bars = counts.map(([name, count]) => [name, count, "warn", bar(name)]);
  return shares("Repeated and empty responses", samples - failed, bars);
}

function scoreParts(scores) {
  const note = scores.note && element("p", { class: "when" }, scores.note);
  return [note, grid([passAtK(scores), rowPassRates(scores), scoreHistogram(scores)])];
}

function passAtK({ pass_at_k: pass, majority_at_k: majority, estimates = {} }) {
  const bar = (name, k) => estimates[`${name}@${k}`];
  const points = (name, shares) => Object.entries(shares ?? {}).map(([k, share]) => [Number(k), share, bar(name, k)]);
  const lines = [
    { name: "pass@k", points: points("pass", pass) },
    { name: "majority@k", points: points("majority", majority) },
  ];
  const series = lines.filter(({ points }) => points.length);
  if (!series.length) return null;
  const x = { xLabel: "k", xLog: true, xTicks: series[0].points.map(([k]) => k) };
  const y = { yLabel: "share of rows", yFormat: percent, yMax: 1 };
  return lineChart({ title: "pass@k", note: "at least one of k responses passes", series, ...x, ...y, dots: true });
}

function rowPassRates({ row_pass_rates: histogram }) {
  const labels = { xLabel: "share of its responses that pass", yLabel: "rows", xFormat: percent };
  const note = "left: too hard, right: too easy";
  return histogram && histogramChart({ title: "Pass rate of a row", note, histogram, ...labels });
}

function scoreHistogram({ mean, estimates, scored, no_answer: noAnswer, cut_off: cutOff, unscored, histogram }) {
  const counts = { "gave no answer": noAnswer, "were cut off": cutOff, "could not be scored": unscored };
  const parts = Object.entries(counts).filter(([, count]) => count > 0).map(([name, count]) => `${number(count)} ${name}`);
  const note = [`mean ${withBar(mean, estimates?.mean, number)} of ${plural(scored, "response")}`, ...parts].join(", ");
  return histogram && histogramChart({ title: "Scores", note, histogram, xLabel: "score", yLabel: "responses" });
}

function groupTable({ by, groups }) {
  const rows = Object.entries(groups ?? {});
  const figures = (name, of) => ({ name, value: ([, group]) => of(group) });
  const share = (name, of, bar) => ({
    ...figures(name, of),
    text: ([, it]) => estimated(percent(of(it)), bar(it), percent),
    share: ([, it]) => of(it),
  });
  const score = (name) => (group) => group.scores?.estimates?.[name];
  const mean = ([, group]) => estimated(number(group.scores.mean), score("mean")(group), number);
  const k = Math.max(0, ...rows.map(([, group]) => largestK(group.scores)[0]));
  const columns = [
    { name: by, value: ([name]) => name },
    figures("rows", (group) => group.rows),
    figures("samples", (group) => group.samples),
    figures("failed", (group) => group.failed),
    share("pass rate", (group) => group.scores?.pass_rate, score("pass_rate")),
    k > 1 && share(`pass@${k}`, (group) => group.scores?.pass_at_k?.[k], score(`pass@${k}`)),
    { ...figures("mean score", (group) => group.scores?.mean), text: mean },
    figures("tokens, mean", (group) => group.tokens?.mean),
    figures("tokens, p90", (group) => group.tokens?.p90),
    share("cut off", (group) => group.truncated_fraction, (group) => group.estimates?.truncated_fraction),
    figures("distinct / row", (group) => group.distinct_responses?.mean),
  ];
  return rows.length > 0 && element("div", { class: "panel" }, sortableTable(columns.filter(Boolean), rows));
}

function errorTable({ errors }) {
  const rows = Object.entries(errors ?? {});
  const columns = [
    { name: "samples", value: ([, count]) => count },
    { name: "error", value: ([text]) => text, wide: true },
  ];
  return rows.length > 0 && element("div", { class: "panel" }, sortableTable(columns, rows));
}

function runDetails({ command, run_dir: folder, config, provenance }) {
  const keys = Object.entries(config);
  return [
    commandLine(command),
    folded(`Config (${plural(keys.length, "key")})`, searchableDefinitions(keys, "Search the config")),
    folded("Provenance", definitions([["folder", folder], ...Object.entries(provenance)])),
  ];
}

const content = JSON.parse(document.getElementById("content").textContent);
document.title = `${content.title} · rollout`;
document.body.append(...report(content));
