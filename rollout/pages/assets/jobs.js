"use strict";
// The jobs of a sweep, their parameters and their figures. The shape of a job is in rollout/pages/sweep_content.py.

const LONGEST_VALUE = 32; // characters of a parameter's name, and of its value, in the name of a job

/** "sampling.temperature" -> "temperature", where no other parameter ends so. */
function shortName(parameter, parameters) {
  const last = (name) => name.split(".").at(-1);
  const isAlone = parameters.filter((other) => last(other) === last(parameter)).length === 1;
  return isAlone ? last(parameter) : parameter;
}

/** "temperature=0.3, n_samples=4", of the `chosen` ones among the parameters; "" without any. */
function jobName({ overrides }, parameters, chosen = parameters) {
  const value = (parameter) => shortened(overrides[parameter] ?? "–", LONGEST_VALUE);
  const name = (parameter) => shortened(shortName(parameter, parameters), LONGEST_VALUE);
  return chosen.map((parameter) => `${name(parameter)}=${value(parameter)}`).join(", ");
}

/** "job 3: temperature=0.3". */
function jobTitle(job, parameters) {
  return [`job ${job.num}`, jobName(job, parameters)].filter(Boolean).join(": ");
}

/** The job's number, which leads to its report. `report` is relative; as a path it can lead nowhere else. */
function jobLink({ num, report }, text = String(num)) {
  if (!isPresent(report)) return text;
  const path = report.split("/").map((part) => encodeURIComponent(part.toWellFormed()));
  return element("a", { href: `./${path.join("/")}` }, text);
}

function isDone({ status }) {
  return status === "done";
}

/** The parameter of a job as a number; null where it is none. */
function numeric({ overrides }, parameter) {
  const text = overrides[parameter]?.trim();
  const value = text ? Number(text) : NaN;
  return Number.isFinite(value) ? value : null;
}

/** Whether every job that has the parameter has a number for it. */
function isNumeric(jobs, parameter) {
  const having = jobs.filter(({ overrides }) => isPresent(overrides[parameter]));
  return having.length > 0 && having.every((job) => numeric(job, parameter) !== null);
}

/** The values of the metric where it is there. */
function figures(jobs, metric) {
  return jobs.map(({ metrics }) => metrics[metric]).filter(isNumber);
}

function total(jobs, ...metrics) {
  return metrics.flatMap((metric) => figures(jobs, metric)).reduce((sum, value) => sum + value, 0);
}

/** The k of "pass@k" (or of "majority@k") that any of the jobs has, ascending. */
function ksOf(jobs, prefix = "pass@") {
  const names = new Set(jobs.flatMap(({ metrics }) => Object.keys(metrics)));
  const there = [...names].filter((name) => name.startsWith(prefix) && figures(jobs, name).length);
  return there.map((name) => Number(name.slice(prefix.length))).filter(Number.isInteger).sort((a, b) => a - b);
}

/** The error bar of a job's metric, if it has one. */
function barOf({ estimates }, metric) {
  return estimates?.[metric];
}

/** The job with the highest figure, null without one. */
function bestOf(jobs, metric) {
  const highest = Math.max(...figures(jobs, metric));
  return jobs.find(({ metrics }) => metrics[metric] === highest) ?? null;
}
