"use strict";
// Which rows and responses are shown. A filter is {pattern: RegExp or null, reason, outcome, minimum: number or null}.

const NO_FILTER = { pattern: null, reason: "", outcome: "", minimum: null };

/** What was typed as a pattern that finds exactly that, in any case; null for nothing. */
function searchPattern(typed) {
  return typed ? new RegExp(typed.replace(/[\^$\\.*+?()[\]{}|/]/g, "\\$&"), "giu") : null;
}

function texts(row) {
  return [
    ...row.prompt.map(({ content }) => content),
    ...row.responses.flatMap(({ text, answer, error, thinking }) => [text, answer, error, thinking?.text]),
    row.ground_truth,
    ...Object.values(row.fields),
  ].filter(Boolean);
}

function contains(text, pattern) {
  return text.search(pattern) >= 0;
}

/** "passed", "failed" or "unscored"; the threshold is the score from which a response passes. */
function outcomeOf(response, threshold) {
  if (!isNumber(response.score)) return "unscored";
  return response.score >= threshold ? "passed" : "failed";
}

function keepsResponse(response, filter, threshold) {
  const { reason, outcome, minimum } = filter;
  return (
    (!reason || response.finish_reason === reason) &&
    (!outcome || outcomeOf(response, threshold) === outcome) &&
    (minimum === null || (isNumber(response.score) && response.score >= minimum))
  );
}

/** A row is shown when the text is somewhere in it and a response passes the filters. */
function keepsRow(row, filter, threshold) {
  const wanted = filter.reason || filter.outcome || filter.minimum !== null;
  const found = !filter.pattern || texts(row).some((text) => contains(text, filter.pattern));
  return found && (!wanted || row.responses.some((response) => keepsResponse(response, filter, threshold)));
}

/** `text` as nodes, what was searched for in <mark>. */
function highlighted(text, pattern) {
  if (!pattern) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    nodes.push(text.slice(end, match.index), element("mark", {}, match[0]));
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)];
}

/** The last thing the user said: what tells one row from the next. */
function questionOf({ prompt }) {
  return (prompt.findLast(({ role }) => role === "user") ?? prompt.at(-1))?.content ?? "";
}

/** `text` from a little before the first match on, in one line. */
function excerpt(text, pattern, length = 140) {
  const start = pattern ? Math.max(text.search(pattern) - 30, 0) : 0;
  const part = text.slice(start, start + length).replace(/\s+/g, " ");
  return `${start ? "… " : ""}${part}${start + length < text.length ? " …" : ""}`;
}
