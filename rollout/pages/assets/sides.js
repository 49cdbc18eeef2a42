"use strict";
// The responses of two jobs to the same row, side by side. Where the jobs asked differently, each side has its prompt.
// What a job is, the page says: a job of a sweep, or one of the runs and files that are compared.

/** The section; null with fewer than two jobs that have responses.
 *
 * jobs: [{num, ...}, ...]; rows: [{row_id, prompt, ground_truth, responses: {num: [response, ...]}}, ...].
 * naming: {noun: "job", title: job -> text to choose it by, head: (job, row) -> nodes above its responses,
 * filters: whether responses can be filtered too}.
 */
function sideBySide({ jobs, rows, pass_score: threshold }, naming) {
  const having = jobs.filter(({ num }) => rows.some(({ responses }) => responses[num]?.length));
  if (having.length < 2) return null;
  const done = having.filter(({ status = "done" }) => status === "done");
  const [left, right] = firstAndLast(done.length > 1 ? done : having);
  const state = rowList({
    rows: pairs(rows, left, right),
    threshold,
    keeps: (row) => keepsPair(state, row),
    marks: (row) => element("span", { class: "both" }, row.sides.map((side) => marks(state, side, MOST_MARKS / 2))),
    detail: (row) => pairDetail(state, row),
    address: (row) => addressOf(state.left, state.right, row.row_id),
    follow: () => followPair(state),
  });
  Object.assign(state, { jobs: having, naming, left, right, source: rows });
  state.scored = rows.some((row) => Object.values(row.responses).flat().some(({ score }) => isNumber(score)));
  return listed(state, "Side by side", pairForm(state));
}

function firstAndLast(jobs) {
  return [jobs[0], jobs.at(-1)];
}

/** The rows that either job has, each number once. */
function pairs(rows, ...jobs) {
  const ids = [...new Set(rows.map(({ row_id: id }) => id))];
  const rowsOf = ({ num }) => rows.filter(({ responses }) => isPresent(responses[num]));
  const byId = jobs.map((job) => new Map(rowsOf(job).map((row) => [row.row_id, row])));
  const both = ids.map((id) => byId.map((found) => found.get(id)));
  return both.filter((asked) => asked.some(isPresent)).map((asked) => paired(asked, jobs));
}

/** A row as search.js reads it, with the responses of both jobs; asked: the row of either job, undefined without one. */
function paired(asked, jobs) {
  const sides = asked.map((row, at) => row?.responses[jobs[at].num] ?? []);
  const [first, other = first] = asked.filter(isPresent);
  const isOnePrompt = JSON.stringify(first.prompt) === JSON.stringify(other.prompt);
  const alsoSearched = isOnePrompt ? {} : Object.fromEntries(other.prompt.map(({ content }, at) => [at, content]));
  return { ...first, fields: alsoSearched, asked, isOnePrompt, sides, responses: sides.flat() };
}

function addressOf(left, right, row) {
  return `#left=${left.num}&right=${right.num}&row=${row}`;
}

/** Shows what the address names, as in sweep.html#left=0&right=3&row=12; whether it names anything that is there. */
function followPair(state) {
  const named = new URLSearchParams(location.hash.slice(1));
  const job = (side) => state.jobs.find(({ num }) => String(num) === named.get(side));
  const has = ["left", "right", "row"].some((key) => named.has(key));
  if (has) setPair(state, job("left") ?? state.left, job("right") ?? state.right, named.get("row"));
  return has;
}

function setPair(state, left, right, rowId) {
  Object.assign(state, { left, right, rows: pairs(state.source, left, right) });
  [state.leftChoice.value, state.rightChoice.value] = [left.num, right.num];
  const wanted = rowId ?? String(state.selected.row_id);
  const row = state.rows.find(({ row_id: id }) => String(id) === wanted) ?? state.rows[0];
  applyFilter(state, state.filter);
  select(state, row);
}

/** The filter's `winner` is "", "left" or "right": the side on which more responses pass. */
function keepsPair(state, row) {
  const [left, right] = row.sides.map((responses) => passed(state, responses));
  const wins = { left: left > right, right: right > left }[state.filter.winner] ?? true;
  return wins && keepsRow(row, state.filter, state.threshold);
}

function pairForm(state) {
  const search = searchBox();
  const label = (side) => (side ? `more pass on the ${side}` : "either side better");
  const winner = choice("which side is better", ["", "left", "right"], label);
  const all = state.source.flatMap(({ responses }) => Object.values(responses).flat());
  const { inputs: more, read } = state.naming.filters ? responseFilters(state, all) : { inputs: [], read: () => ({}) };
  const refilter = () =>
    applyFilter(state, { ...NO_FILTER, ...read(), pattern: searchPattern(search.value.trim()), winner: winner.value });
  const inputs = [search, ...(state.scored ? [winner] : []), ...more];
  return element("div", {}, pairChoice(state), filterForm(state, search, inputs, refilter));
}

function pairChoice(state) {
  const nums = state.jobs.map(({ num }) => num);
  const title = (num) => state.naming.title(state.jobs.find((job) => job.num === num));
  const go = (left, right) => (location.hash = `#left=${left}&right=${right}&row=${state.selected.row_id}`);
  const chosen = (side, job) => {
    const select = choice(`${side} ${state.naming.noun}`, nums, title);
    select.value = job.num;
    select.addEventListener("input", () => go(state.leftChoice.value, state.rightChoice.value));
    return select;
  };
  state.leftChoice = chosen("left", state.left);
  state.rightChoice = chosen("right", state.right);
  const swap = button("swap", () => go(state.right.num, state.left.num));
  const label = (text, select) => element("label", {}, text, select);
  const parts = [label("left", state.leftChoice), swap, label("right", state.rightChoice)];
  return element("div", { class: "pair" }, parts);
}

function pairDetail(state, row) {
  const responses = Math.max(...row.sides.map(({ length }) => length), 1);
  const both = [state.left, state.right].map((job, at) => side(state, job, row, at));
  const sides = element("div", { class: "sides" }, both);
  sides.style.setProperty("--rows", responses + (row.isOnePrompt ? 1 : 2));
  const title = element("h4", {}, "Responses");
  return [
    detailHead(state, row),
    ...(row.isOnePrompt ? ask(state, row) : []),
    element("div", { class: "responses-head" }, title, fullTexts(state)),
    sides,
  ];
}

function ask(state, row) {
  return promptOf(state, row, [["ground truth", row.ground_truth]]);
}

function side(state, job, row, at) {
  const { sides, asked, isOnePrompt } = row;
  const responses = sides[at];
  const { noun, head: names } = state.naming;
  const head = element(
    "header",
    {},
    names(job, row),
    element("span", { class: "outcomes" }, outcomes(state, responses)),
  );
  const cards = responses.map((response) => card(state, response));
  const none = element("div", { class: "card" }, nothing(`this ${noun} has no responses to this row`));
  const prompt = !isOnePrompt && element("div", {}, ask(state, asked[at]));
  const parts = [head, prompt, ...(cards.length ? cards : [none])];
  return element("section", { class: "side", "aria-label": `${noun} ${job.num}` }, parts);
}
