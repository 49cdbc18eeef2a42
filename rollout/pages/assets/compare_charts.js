"use strict";
// pass@k of the sides with their intervals as bands, and how two sides differ in it.

const MOST_CURVES = 8; // as many colours as there are

function passCharts({ sides, pairs }) {
  return [passCurves(sides), pairs.length === 1 && differenceCurve(pairs[0])];
}

/** [[k, what of_metric gives for pass@k], ...], without what is not there. */
function overK(names, of) {
  const ks = names.map((name) => name.match(/^pass@(\d+)$/)).filter(Boolean).map(([, k]) => Number(k));
  return ks.map((k) => [k, of(`pass@${k}`)]).filter(([, found]) => isPresent(found));
}

function curve(name, estimates) {
  return { name, points: estimates.map(([k, bar]) => [k, bar.value, bar]) };
}

function passCurves(sides) {
  const series = sides
    .map(({ name, estimates }) => curve(name, overK(Object.keys(estimates), (metric) => estimates[metric])))
    .filter(({ points }) => points.length > 1);
  if (!series.length) return null;
  const some = series.length > MOST_CURVES ? `, the first ${MOST_CURVES} of ${series.length}` : "";
  const note = `at least one of k responses passes; bands: 95 %, over all rows of each${some}`;
  const y = { yLabel: "share of rows", yFormat: percent, yMax: 1 };
  return lineChart({ title: "pass@k", note, series: series.slice(0, MOST_CURVES), ...axisOf(series), ...y, dots: true, bands: true });
}

function differenceCurve({ earlier, later, metrics }) {
  const found = overK(Object.keys(metrics), (metric) => metrics[metric].paired.difference);
  const title = `pass@k, ${later} - ${earlier}`;
  const note = `where the band leaves 0 out, the difference is more than chance; over the matched rows`;
  const series = [curve(title, found)];
  if (found.length < 2) return null;
  return lineChart({ title, note, series, ...axisOf(series), yLabel: "difference", yFormat: percent, dots: true, bands: true });
}

function axisOf(series) {
  const ks = [...new Set(series.flatMap(({ points }) => points.map(([k]) => k)))].sort((a, b) => a - b);
  return { xLabel: "k", xLog: true, xTicks: ks };
}
