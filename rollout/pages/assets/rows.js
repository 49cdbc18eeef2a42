"use strict";
// A list of rows beside the row that is selected, which alone is in the document. What is special to a page it gives to
// rowList; the rest is here: filtering, keys, and the address, in which the selected row stands.

/** The state of a list.
 *
 * rows: [{row_id, prompt, ground_truth, fields, responses}, ...], at least one; total: how many there are beyond these.
 * threshold: the score from which a response passes, else 1. keeps(row): whether the filter keeps it.
 * marks(row), detail(row): nodes for its line in the list, and for itself. address(row): its "#...".
 * follow(): selects what location.hash names, and says whether that names anything.
 */
function rowList({ rows, threshold = 1, detail, ...page }) {
  return {
    ...page,
    rows,
    threshold,
    describe: detail,
    filter: NO_FILTER,
    shown: rows,
    selected: rows[0],
    scored: rows.some((row) => row.responses.some(({ score }) => isNumber(score))),
    counter: element("p", { class: "counter", role: "status" }),
    list: element("ol", { class: "rows panel", "aria-label": "rows" }),
    detail: element("article", { class: "row panel", "aria-label": "selected row" }),
  };
}

/** The section of the page with a list that is drawn and listens. */
function listed(state, title, form) {
  const panes = element("div", { class: "browser" }, state.list, state.detail);
  const whole = section("rows", title, form, panes);
  window.addEventListener("hashchange", () => state.follow());
  window.addEventListener("load", () => state.follow() && whole.scrollIntoView());
  document.addEventListener("keydown", (event) => onKey(state, event));
  showList(state);
  if (!state.follow()) select(state, state.selected);
  return whole;
}

function searchBox() {
  const wanted = "Search prompts and responses";
  return element("input", { type: "search", placeholder: wanted, "aria-label": wanted });
}

/** Inputs that say what one of the responses of a row has to be like, and `read`, which gives that for a filter. */
function responseFilters(state, responses) {
  const reasons = [...new Set(responses.map(({ finish_reason: reason }) => reason))].sort();
  const reason = choice("finish reason", ["", ...reasons], (name) => name || "any finish reason");
  const outcome = choice("outcome", ["", "passed", "failed", "unscored"], (name) => name || "any outcome");
  const least = "min score";
  const minimum = element("input", { type: "number", step: "any", placeholder: least, "aria-label": least });
  const read = () => ({
    reason: reason.value,
    outcome: outcome.value,
    minimum: minimum.value === "" ? null : Number(minimum.value),
  });
  return { inputs: [reason, ...(state.scored ? [outcome, minimum] : [])], read };
}

/** The inputs, one of which is the search box, with a button that empties them, and the counter. */
function filterForm(state, search, inputs, refilter, ...others) {
  inputs.forEach((input) => input.addEventListener("input", refilter));
  state.search = search;
  state.clear = () => {
    inputs.forEach((input) => (input.value = ""));
    refilter();
  };
  const ignore = (event) => event.preventDefault(); // of Enter, which would send the form
  const clear = button("clear", state.clear);
  return element("form", { class: "toolbar", submit: ignore }, inputs, clear, ...others, state.counter);
}

function applyFilter(state, filter) {
  state.filter = filter;
  state.shown = state.rows.filter(state.keeps);
  if (!state.shown.includes(state.selected) && state.shown.length) state.selected = state.shown[0];
  showList(state);
  select(state, state.selected);
}

function showList(state) {
  const empty = element("li", { class: "nothing" }, "No row matches. ", button("Clear the filters", state.clear));
  state.list.replaceChildren(...(state.shown.length ? state.shown.map((row) => listItem(state, row)) : [empty]));
  const inRun = state.total > state.rows.length ? `, a sample of the ${number(state.total)} of the run` : "";
  state.counter.textContent = `${number(state.shown.length)} of ${plural(state.rows.length, "row")}${inRun}`;
}

function listItem(state, row) {
  const { pattern } = state.filter;
  const question = questionOf(row);
  const part = (kind, ...content) => element("span", { class: kind }, ...content);
  const line = (kind, text) => part(`excerpt ${kind}`, highlighted(excerpt(text, pattern), pattern));
  const elsewhere = pattern && !contains(question, pattern) && texts(row).find((text) => contains(text, pattern));
  const head = part("item-head", part("row-id", row.row_id), state.marks(row));
  const lines = [line("question", question), elsewhere && line("found", elsewhere)];
  return element("li", {}, element("a", { href: state.address(row), "data-row": row.row_id }, head, lines));
}

function select(state, row) {
  state.selected = row;
  state.detail.replaceChildren(...(state.shown.length ? state.describe(row) : []));
  for (const link of state.list.querySelectorAll("a")) {
    const current = Number(link.dataset.row) === row.row_id;
    link.setAttribute("aria-current", current);
    if (current) reveal(state.list, link.parentElement);
  }
}

/** Scrolls the list alone; scrollIntoView would move the page too. */
function reveal(list, item) {
  const bottom = item.offsetTop + item.offsetHeight;
  if (item.offsetTop < list.scrollTop) list.scrollTop = item.offsetTop;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

function detailHead(state, row) {
  const at = state.shown.indexOf(row);
  const position = at < 0 ? "" : `${at + 1} of ${number(state.shown.length)}`;
  return element(
    "header",
    {},
    element("h3", {}, `Row ${row.row_id}`),
    element("span", { class: "position" }, position),
    button("previous", () => step(state, -1), { disabled: at <= 0, title: "left arrow or k" }),
    button("next", () => step(state, 1), { disabled: at === state.shown.length - 1, title: "right arrow or j" }),
  );
}

function step(state, by) {
  const row = state.shown[state.shown.indexOf(state.selected) + by];
  if (row) location.hash = state.address(row);
}

function onKey(state, event) {
  const typing = event.target.closest("input, select");
  if (event.key === "Escape" && event.target === state.search) state.clear();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = {
    ArrowLeft: () => step(state, -1),
    ArrowRight: () => step(state, 1),
    k: () => step(state, -1),
    j: () => step(state, 1),
    "/": () => state.search.focus(),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}
