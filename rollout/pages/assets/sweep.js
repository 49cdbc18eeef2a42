"use strict";
// The comparison of a sweep's jobs, from top to bottom. `content` is described in rollout/pages/sweep_content.py.

const LONGEST_CELL = 80; // characters of a parameter's value in the table; the whole text is its title

function sweep(content) {
  const { jobs, parameters } = content;
  const sections = [
    section("overview", "Overview", tiles(content), jobs.some(hasBars) && aboutIntervals()),
    section("jobs", "Jobs", jobTable(content)),
    section("failures", "Failures", failureTable(content)),
    section("comparison", "Comparison", comparison(content)),
    sideBySide(content),
  ].filter(Boolean);
  const about = [element("p", { class: "when" }, whatIsSwept(jobs, parameters)), commandLine(content.command)];
  return [topBar(content.title, progress(jobs), about, sections), element("main", {}, sections)];
}

/** "5 of 6 done", and how many are anything else. */
function progress(jobs) {
  const count = (status) => jobs.filter((job) => job.status === status).length;
  const others = [...new Set(jobs.map(({ status }) => status))].filter((status) => status !== "done");
  const tone = others.length ? "plain" : "good";
  const done = badge(`${count("done")} of ${plural(jobs.length, "job")} done`, jobs.length ? tone : "plain");
  return [done, ...others.map((status) => badge(`${count(status)} ${status}`, STATUS_TONES[status]))];
}

function whatIsSwept(jobs, parameters) {
  const values = (parameter) => new Set(jobs.map(({ overrides }) => overrides[parameter])).size;
  const each = parameters.map((parameter) => `${parameter} (${plural(values(parameter), "value")})`);
  return each.length ? `sweeps ${each.join(", ")}` : "no parameter differs between the jobs";
}

function hasBars({ estimates }) {
  return Object.keys(estimates ?? {}).length > 0;
}

function tiles({ jobs, parameters, best }) {
  const done = jobs.filter(isDone);
  if (!done.length) return null;
  const failed = total(done, "failed");
  const k = ksOf(done).at(-1);
  const failures = failed ? `${number(failed)} failed` : "none failed";
  const all = [
    tile("samples", compact(total(done, "samples")), failures, failed ? "bad" : ""),
    tile("generated tokens", compact(total(done, "generated_tokens")), `of ${plural(done.length, "job")}`),
    tile("generating", duration(total(done, "generate_seconds")), loading(done)),
    fastestTile(done, parameters),
    k && scoreTile(`pass@${k}`, done, parameters, best[`pass@${k}`] ?? []),
  ];
  return element("div", { class: "tiles" }, all.filter(Boolean));
}

function loading(jobs) {
  const loads = jobs.filter(({ engine }) => engine === "loaded").length;
  const times = loads === 1 ? "once" : plural(loads, "time");
  return loads > 0 && `model loaded ${times}, ${duration(total(jobs, "load_seconds"))}`;
}

function fastestTile(jobs, parameters) {
  const job = bestOf(jobs, "output_tok_s");
  return job && tile("fastest, tokens / s", compact(job.metrics.output_tok_s), jobTitle(job, parameters));
}

/** The best job where its interval says so, else those that are tied; `best` are their numbers. */
function scoreTile(metric, jobs, parameters, best) {
  const job = bestOf(jobs, metric);
  const name = best.length === 1 ? `best ${metric}` : `highest ${metric}`;
  const tied = best.length > 1 && `tied with ${plural(best.length - 1, "other job")}`;
  const notes = [jobTitle(job, parameters), tied, intervalText(barOf(job, metric), percent)];
  return tile(name, percent(job.metrics[metric]), notes.filter(Boolean).join(", "));
}

function jobTable(content) {
  const engine = { name: "engine", value: ({ engine }) => engine };
  const columns = [...identity(content), ...metricColumns(content), engine];
  return content.jobs.length > 0 && element("div", { class: "panel" }, sortableTable(columns, content.jobs));
}

function identity({ jobs, parameters }) {
  return [
    { name: "job", value: ({ num }) => num, text: (job) => jobLink(job) },
    { name: "status", value: ({ status }) => status, text: ({ status }) => badge(status, STATUS_TONES[status]) },
    ...parameters.map((parameter) => parameterColumn(jobs, parameter, parameters)),
  ];
}

function parameterColumn(jobs, parameter, parameters) {
  const sorts = isNumeric(jobs, parameter) ? numeric : ({ overrides }) => overrides[parameter];
  const text = ({ overrides }) => valueText(overrides[parameter]);
  return { name: shortName(parameter, parameters), hint: parameter, value: (job) => sorts(job, parameter), text };
}

function valueText(text) {
  return text.length > LONGEST_CELL ? element("span", { title: text }, shortened(text, LONGEST_CELL)) : text;
}

function metricColumns({ jobs, best }) {
  const done = jobs.filter(isDone);
  const fastest = Math.max(...figures(jobs, "output_tok_s"));
  const of = (metric) => ({ metrics }) => metrics[metric];
  const column = (name, metric, more) => ({ name, value: of(metric), ...more });
  const most = (name, metric, more) => column(name, metric, { strong: isHighest(done, metric), ...more });
  const isAlone = (metric, { num }) => best[metric]?.length === 1 && best[metric][0] === num;
  const tied = (metric, { num }) => best[metric]?.length > 1 && best[metric].includes(num) && "tied";
  const scored = (name, metric, format) =>
    column(name, metric, {
      strong: (job) => isAlone(metric, job),
      text: (job) => estimated(format(of(metric)(job)), barOf(job, metric), format, tied(metric, job)),
    });
  const bars = jobs.some(hasBars); // which take the place of the drawn ones
  const shared = (name, metric = name) => ({ ...scored(name, metric, percent), share: !bars && of(metric) });
  const rare = (name, metric) => total(jobs, metric) > 0 && shared(name, metric);
  const [k, majority] = [ksOf(jobs).at(-1), ksOf(jobs, "majority@").at(-1)];
  return [
    most("tokens / s", "output_tok_s", { share: ({ metrics }) => metrics.output_tok_s / fastest }),
    k ? shared("pass@1") : shared("pass rate", "pass_rate"),
    k > 1 && shared(`pass@${k}`),
    majority > 1 && shared(`majority@${majority}`),
    scored("mean score", "mean_score", number),
    shared("cut off", "truncated_fraction"),
    column("tokens, mean", "mean_tokens"),
    column("tokens, p99", "p99_tokens"),
    most("distinct / row", "distinct_responses"),
    column("samples", "samples"),
    column("failed", "failed"),
    rare("duplicate", "duplicate_fraction"),
    rare("looping", "looping_fraction"),
    rare("empty", "empty_fraction"),
    column("generating", "generate_seconds", { text: ({ metrics }) => duration(metrics.generate_seconds) }),
  ].filter(Boolean);
}

/** Whether a job has the highest figure, where the jobs differ. */
function isHighest(jobs, metric) {
  const values = figures(jobs, metric);
  const differ = new Set(values).size > 1;
  return (job) => differ && isDone(job) && job.metrics[metric] === Math.max(...values);
}

function failureTable(content) {
  const stopped = ({ status }) => ["failed", "interrupted", "killed"].includes(status);
  const bad = content.jobs.filter((job) => job.error || stopped(job));
  const [job, status, ...parameters] = identity(content);
  const columns = [job, status, { name: "reason", value: ({ error }) => error, wide: true }, ...parameters];
  return bad.length > 0 && element("div", { class: "panel" }, sortableTable(columns, bad));
}

const content = JSON.parse(document.getElementById("content").textContent);
document.title = `${content.title} · rollout`;
document.body.append(...sweep(content));
