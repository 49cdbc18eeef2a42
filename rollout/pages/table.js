"use strict";

/** A table that sorts by the column whose heading is pressed.
 *
 * columns: [{name, value: row -> number, string or null, text: row -> what is shown, share: row -> 0 to 1 for a bar,
 * wide: takes the width that is left}].
 * A column in which no row has a value is left out.
 */
function sortableTable(columns, rows) {
  const shown = columns.filter(({ value }) => rows.map(value).some(isPresent));
  const body = element("tbody");
  const kind = ({ value, wide }) => `${isNumber(rows.map(value).find(isPresent)) ? "figure" : "text"}${wide ? " wide" : ""}`;
  const headings = shown.map((column) => element("th", { scope: "col", class: kind(column) }, button(column.name, () => sort(column))));
  const order = { column: null, descending: false };
  const fillBody = (sorted) => body.replaceChildren(...sorted.map((row) => element("tr", {}, shown.map((column) => cell(column, row)))));
  const sort = (column) => {
    order.descending = order.column === column ? !order.descending : isNumber(column.value(rows[0]));
    order.column = column;
    const direction = order.descending ? -1 : 1;
    fillBody([...rows].sort((a, b) => direction * compare(column.value(a), column.value(b))));
    headings.forEach((heading, at) => markSorted(heading, shown[at] === column && order.descending ? "descending" : "ascending", shown[at] === column));
  };
  fillBody(rows);
  const head = element("thead", {}, element("tr", {}, headings));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" }, element("table", {}, head, body));
}

function markSorted(heading, direction, sorted) {
  if (sorted) heading.setAttribute("aria-sort", direction);
  else heading.removeAttribute("aria-sort");
}

function cell({ value, text, share }, row) {
  const found = value(row);
  if (!isPresent(found)) return element("td", { class: "figure" }, "–");
  const content = text ? text(row) : isNumber(found) ? number(found) : found;
  return element("td", { class: isNumber(found) ? "figure" : "text" }, share && shareBar(share(row)), element("span", {}, content));
}

function shareBar(fraction) {
  const bar = element("span");
  bar.style.width = `${100 * fraction}%`;
  return element("span", { class: "share" }, bar);
}

function compare(a, b) {
  if (isNumber(a) && isNumber(b)) return a - b;
  return String(a ?? "").localeCompare(String(b ?? ""), "en", { numeric: true });
}

/** Names and texts in two columns. */
function definitions(pairs) {
  return element("dl", { class: "definitions" }, pairs.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
}

/** The same with a search box over both. */
function searchableDefinitions(pairs, placeholder) {
  const list = element("div");
  const show = (query) => {
    const found = pairs.filter((pair) => pair.some((text) => text.toLowerCase().includes(query.toLowerCase())));
    list.replaceChildren(definitions(found));
  };
  const box = element("input", { type: "search", placeholder, "aria-label": placeholder, input: () => show(box.value) });
  show("");
  return element("div", {}, box, list);
}
