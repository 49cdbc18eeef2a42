"use strict";
// The rows of the report: a list, filters over it, and one row with all its responses.

function rowBrowser({ rows, rows_total: total, analysis }) {
  if (!rows.length) return null;
  const state = rowList({
    rows,
    total,
    threshold: analysis.scores?.pass_score,
    keeps: (row) => keepsRow(row, state.filter, state.threshold),
    marks: (row) => marks(state, row.responses),
    detail: (row) => rowDetail(state, row),
    address: ({ row_id: id }) => `#row=${id}`,
    follow: () => followAddress(state),
  });
  return listed(state, "Rows", toolbar(state));
}

function toolbar(state) {
  const search = searchBox();
  const { inputs, read } = responseFilters(state, state.rows.flatMap(({ responses }) => responses));
  const refilter = () => applyFilter(state, { pattern: searchPattern(search.value.trim()), ...read() });
  return filterForm(state, search, [search, ...inputs], refilter);
}

function rowDetail(state, row) {
  const { filter, threshold } = state;
  const kept = row.responses.filter((response) => keepsResponse(response, filter, threshold));
  return [
    detailHead(state, row),
    ...promptOf(state, row, [["ground truth", row.ground_truth], ...Object.entries(row.fields)]),
    responsesHead(state, kept.length, row.responses.length - kept.length),
    element("div", { class: "cards" }, kept.map((response) => card(state, response))),
  ];
}

function responsesHead(state, kept, hidden) {
  const note = hidden > 0 && ` (${number(hidden)} more do not pass the filters)`;
  const title = element("h4", {}, plural(kept, "response"), note);
  return element("div", { class: "responses-head" }, title, fullTexts(state));
}

/** Selects the row that the address names, as in report.html#row=12; whether it names one. */
function followAddress(state) {
  const named = location.hash.match(/^#row=(\d+)$/);
  const row = named && state.rows.find((row) => row.row_id === Number(named[1]));
  if (row) select(state, row);
  return Boolean(row);
}
