"use strict";
// The rows: a list, filters over it, and one row with all its responses. Only the row in view is in the document.

const MOST_MARKS = 24; // a row with more responses gets a count in the list instead of a mark for each

function rowBrowser({ rows, rows_total: total, analysis }) {
  if (!rows.length) return null;
  const state = { rows, total, filter: NO_FILTER, shown: rows, selected: rows[0] };
  state.threshold = analysis.scores?.pass_score ?? 1;
  state.scored = rows.some((row) => row.responses.some(({ score }) => isNumber(score)));
  state.counter = element("p", { class: "counter", role: "status" });
  state.list = element("ol", { class: "rows panel", "aria-label": "rows" });
  state.detail = element("article", { class: "row panel", "aria-label": "selected row" });
  const panes = element("div", { class: "browser" }, state.list, state.detail);
  const whole = section("rows", "Rows", toolbar(state), panes);
  listen(state, whole);
  showList(state);
  select(state, rowOfAddress(state) ?? rows[0]);
  return whole;
}

function toolbar(state) {
  const wanted = "Search prompts and responses";
  const search = element("input", { type: "search", placeholder: wanted, "aria-label": wanted });
  const reason = choice("finish reason", ["", ...reasonsIn(state.rows)], (name) => name || "any finish reason");
  const outcome = choice("outcome", ["", "passed", "failed", "unscored"], (name) => name || "any outcome");
  const least = "min score";
  const minimum = element("input", { type: "number", step: "any", placeholder: least, "aria-label": least });
  const refilter = () =>
    applyFilter(state, {
      pattern: searchPattern(search.value.trim()),
      reason: reason.value,
      outcome: outcome.value,
      minimum: minimum.value === "" ? null : Number(minimum.value),
    });
  const inputs = [search, reason, ...(state.scored ? [outcome, minimum] : [])];
  inputs.forEach((input) => input.addEventListener("input", refilter));
  state.search = search;
  state.clear = () => {
    inputs.forEach((input) => (input.value = ""));
    refilter();
  };
  const ignore = (event) => event.preventDefault(); // of Enter, which would send the form
  return element("form", { class: "toolbar", submit: ignore }, inputs, button("clear", state.clear), state.counter);
}

function choice(name, values, label) {
  return element("select", { "aria-label": name }, values.map((value) => element("option", { value }, label(value))));
}

function reasonsIn(rows) {
  return [...new Set(rows.flatMap(({ responses }) => responses.map(({ finish_reason }) => finish_reason)))].sort();
}

function applyFilter(state, filter) {
  state.filter = filter;
  state.shown = state.rows.filter((row) => keepsRow(row, filter, state.threshold));
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
  const head = part("item-head", part("row-id", row.row_id), marks(state, row));
  const lines = [line("question", question), elsewhere && line("found", elsewhere)];
  return element("li", {}, element("a", { href: `#row=${row.row_id}`, "data-row": row.row_id }, head, lines));
}

/** One square per response, coloured by score or by finish reason, with its meaning as text. */
function marks(state, row) {
  const { length } = row.responses;
  const passed = row.responses.filter((response) => outcomeOf(response, state.threshold) === "passed").length;
  const summary = state.scored ? `${number(passed)} of ${number(length)} passed` : plural(length, "response");
  if (length > MOST_MARKS) return element("span", { class: "marks" }, summary);
  const squares = row.responses.map((response) => element("i", { class: toneOf(state, response) }));
  return element("span", { class: "marks", role: "img", "aria-label": summary, title: summary }, squares);
}

function toneOf(state, response) {
  if (response.error !== null || response.finish_reason === "error") return "bad";
  return state.scored ? scoreTone(response, state.threshold) : reasonTone(response.finish_reason);
}

function scoreTone({ score }, threshold) {
  if (!isNumber(score)) return "plain";
  if (score >= threshold) return "good";
  return score > 0 ? "warn" : "bad";
}

function reasonTone(reason) {
  return { stop: "plain", length: "warn", error: "bad", abort: "bad" }[reason] ?? "warn";
}

function select(state, row) {
  state.selected = row;
  state.detail.replaceChildren(...(state.shown.length ? rowDetail(state, row) : []));
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

function rowDetail(state, row) {
  const { filter, threshold } = state;
  const kept = row.responses.filter((response) => keepsResponse(response, filter, threshold));
  const facts = [["ground truth", row.ground_truth], ...Object.entries(row.fields)].filter(([, text]) => text !== null);
  return [
    detailHead(state, row),
    element("div", { class: "chat" }, row.prompt.map((message) => bubble(message, filter.pattern))),
    facts.length > 0 && definitions(facts.map(([name, text]) => [name, highlighted(text, filter.pattern)])),
    responsesHead(state, kept.length, row.responses.length - kept.length),
    element("div", { class: "cards" }, kept.map((response) => card(state, response))),
  ].filter(Boolean);
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

function responsesHead(state, kept, hidden) {
  const note = hidden > 0 && ` (${number(hidden)} more do not pass the filters)`;
  const title = element("h4", {}, plural(kept, "response"), note);
  return element("div", { class: "responses-head" }, title, fullTexts(state));
}

/** Long texts scroll in their cards, until this is ticked. */
function fullTexts({ detail }) {
  const box = element("input", { type: "checkbox", change: () => detail.classList.toggle("full", box.checked) });
  box.checked = detail.classList.contains("full");
  return element("label", {}, box, "full texts");
}

function bubble({ role, content }, pattern) {
  const side = role === "assistant" ? "assistant" : role === "system" ? "system" : "user";
  const text = element("div", { class: "text" }, content ? highlighted(content, pattern) : nothing("empty"));
  return element("div", { class: `bubble ${side}` }, element("div", { class: "role" }, role), text);
}

function card(state, response) {
  const { sample_idx: index, text, finish_reason: reason, tokens, score, answer, error, looping } = response;
  const mark = (found) => highlighted(found, state.filter.pattern);
  const head = element(
    "header",
    {},
    element("span", { class: "index" }, `#${index}`),
    badge(reason, reasonTone(reason)),
    looping && badge("looping", "warn"),
    isNumber(tokens) && element("span", { class: "tokens" }, plural(tokens, "token")),
    isNumber(score) && badge(`score ${number(score)}`, scoreTone(response, state.threshold)),
  );
  const body = text === null ? nothing("no response") : text.trim() ? mark(text) : nothing("nothing but white space");
  return element(
    "div",
    { class: "card", "data-sample": index },
    head,
    element("div", { class: "text", tabindex: 0, role: "group", "aria-label": `response ${index}` }, body),
    answer !== null && element("p", { class: "answer" }, element("span", {}, "answer "), mark(answer)),
    error !== null && element("p", { class: "error" }, mark(error)),
  );
}

function nothing(why) {
  return element("span", { class: "missing" }, `(${why})`);
}

function step(state, by) {
  const row = state.shown[state.shown.indexOf(state.selected) + by];
  if (row) location.hash = `#row=${row.row_id}`;
}

/** The row that the address names, as in report.html#row=12. */
function rowOfAddress(state) {
  const named = location.hash.match(/^#row=(\d+)$/);
  return named && state.rows.find((row) => row.row_id === Number(named[1]));
}

function listen(state, section) {
  window.addEventListener("hashchange", () => {
    const row = rowOfAddress(state);
    if (row) select(state, row);
  });
  window.addEventListener("load", () => rowOfAddress(state) && section.scrollIntoView());
  document.addEventListener("keydown", (event) => onKey(state, event));
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
