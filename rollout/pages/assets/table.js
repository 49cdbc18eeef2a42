"use strict";

/** A table that sorts by the column whose heading is pressed.
 *
 * columns: [{name, value: row -> number, string or null, text: row -> what is shown, share: row -> 0 to 1 for a bar,
 * wide: take the width that is left, strong: row -> whether to stress the value, hint: what the heading stands for}].
 * A text may be a node.
 * A column in which no row has a value is left out.
 */
function sortableTable(columns, rows) {
  const shown = columns.filter(({ value }) => rows.map(value).some(isPresent));
  const body = element("tbody");
  const headings = shown.map((column) => heading(column, rows, () => sort(column)));
  const order = { column: null, descending: false };
  const show = (sorted) => body.replaceChildren(...sorted.map((row) => tableRow(shown, row)));
  const sort = (column) => {
    order.descending = order.column === column ? !order.descending : isFigures(column, rows);
    order.column = column;
    const direction = order.descending ? -1 : 1;
    show([...rows].sort((a, b) => direction * compare(column.value(a), column.value(b))));
    headings.forEach((node) => node.removeAttribute("aria-sort"));
    headings[shown.indexOf(column)].setAttribute("aria-sort", order.descending ? "descending" : "ascending");
  };
  show(rows);
  const table = element("table", {}, element("thead", {}, element("tr", {}, headings)), body);
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" }, table);
}

function isFigures({ value }, rows) {
  return isNumber(rows.map(value).find(isPresent));
}

function heading(column, rows, sort) {
  const kind = `${isFigures(column, rows) ? "figure" : "text"} ${column.wide ? "wide" : ""}`;
  return element("th", { scope: "col", class: kind }, button(column.name, sort, { title: column.hint }));
}

function tableRow(columns, row) {
  return element("tr", {}, columns.map((column) => cell(column, row)));
}

function cell({ value, text, share, strong }, row) {
  const found = value(row);
  if (!isPresent(found)) return element("td", { class: "figure" }, "–");
  const content = text ? text(row) : isNumber(found) ? number(found) : found;
  const kind = isNumber(found) ? "figure" : "text";
  const emphasis = strong?.(row) ? "strong" : "span";
  return element("td", { class: kind }, share && shareBar(share(row)), element(emphasis, {}, content));
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

/** Names and texts: [[name, text], ...]. kind: "definitions" for two columns, "facts" for lines of text. */
function definitions(pairs, kind = "definitions") {
  const entry = ([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text));
  return element("dl", { class: kind }, pairs.map(entry));
}

/** The same with a search box over both. */
function searchableDefinitions(pairs, placeholder) {
  const list = element("div");
  const show = (query) => {
    const found = pairs.filter((pair) => pair.some((text) => text.toLowerCase().includes(query.toLowerCase())));
    list.replaceChildren(definitions(found));
  };
  const box = element("input", { type: "search", placeholder, "aria-label": placeholder });
  box.addEventListener("input", () => show(box.value));
  show("");
  return element("div", {}, box, list);
}
