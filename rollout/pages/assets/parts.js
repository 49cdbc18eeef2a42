"use strict";
// What pages are put together from: the head with its links, tiles, the grid of charts, a command.

const STATUS_TONES = { done: "good", running: "plain", interrupted: "warn", failed: "bad", killed: "bad" };

/** The head of a page: badges beside the title, `lines` under it, links to the sections. */
function topBar(title, badges, lines, sections) {
  const links = sections.map(({ id, firstChild }) => element("a", { href: `#${id}` }, firstChild.textContent));
  const product = element("span", { class: "product" }, "rollout");
  return element(
    "header",
    { class: "top" },
    element("div", { class: "heading" }, product, element("h1", {}, title), badges, themeButton()),
    lines,
    element("nav", { "aria-label": "sections" }, links),
  );
}

/** A figure with its name above and a note below; tone is warn, bad or nothing. */
function tile(name, value, note, tone = "") {
  const part = (kind, text) => element("div", { class: kind }, text);
  const parts = [part("name", name), part("value", value), note && part("note", note)];
  return element("div", { class: `tile ${tone}` }, parts);
}

/** What ranges and their mark mean; `over` says what they take for independent. */
function aboutIntervals(over = "") {
  const mark = "* is not to rely on: too few rows, fewer than 10 on one side of the share, or scores of rows that a rule has stopped (a note says so).";
  return element("p", { class: "note" }, `Ranges are 95% intervals${over}. ${mark}`);
}

/** `text` with its range, and what else there is to say of it, in small letters below. */
function estimated(text, bar, format, more) {
  const below = [intervalText(bar, format), more].filter(Boolean).join(" · ");
  return below ? element("span", {}, text, element("small", {}, below)) : text;
}

function grid(charts) {
  const there = charts.filter(Boolean);
  return there.length > 0 && element("div", { class: "grid" }, there);
}

/** Low charts that share a place of the grid. */
function stacked(...charts) {
  const there = charts.filter(Boolean);
  return there.length > 0 && element("div", { class: "stack" }, there);
}

function commandLine(command) {
  return element("div", { class: "panel command" }, element("code", {}, command), copyButton(command));
}
