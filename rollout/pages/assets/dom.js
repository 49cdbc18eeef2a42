"use strict";
// Making nodes and texts. Data reaches the page only through `element` and `shape`: as text nodes and attribute values.

/** element("p", {class: "note"}, "text", node): a string child is text. Null, undefined and false are left out. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  const given = (value) => isPresent(value) && value !== false;
  for (const [name, value] of Object.entries(attributes).filter(([, value]) => given(value))) {
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(given));
  return node;
}

function button(label, click, attributes = {}) {
  return element("button", { type: "button", click, ...attributes }, label);
}

/** A badge: tone is good, warn, bad or plain. */
function badge(text, tone = "plain") {
  return element("span", { class: `badge ${tone}` }, text);
}

/** `content` under a heading that opens and closes it. */
function folded(title, ...content) {
  return element("details", { class: "panel" }, element("summary", {}, title), ...content);
}

/** A section of the page with a heading, and an anchor for the links at the top; null when there is nothing in it. */
function section(id, title, ...content) {
  const there = content.filter(Boolean);
  return there.length ? element("section", { id }, element("h2", {}, title), ...there) : null;
}

function choice(name, values, label) {
  return element("select", { "aria-label": name }, values.map((value) => element("option", { value }, label(value))));
}

function copyButton(text) {
  const copy = button("copy", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "copied";
  });
  return copy;
}

/** Light or dark as the system says, until the button is pressed. */
function themeButton() {
  const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  const other = { light: "dark", dark: "light" };
  const shown = () => document.documentElement.dataset.theme ?? (dark() ? "dark" : "light");
  const name = () => `${other[shown()]} colours`;
  const toggle = button(name(), () => {
    document.documentElement.dataset.theme = other[shown()];
    toggle.textContent = name();
  });
  return toggle;
}

const isNumber = (value) => typeof value === "number";
const isPresent = (value) => value !== null && value !== undefined;

/** `text` with at most `length` characters: what is left out is nearer to the end, for paths differ there too. */
function shortened(text, length) {
  const characters = [...text];
  if (characters.length <= length) return text;
  const tail = Math.floor((length - 1) / 3);
  return [...characters.slice(0, length - 1 - tail), "…", ...characters.slice(characters.length - tail)].join("");
}

/** 12345.6 -> "12,346", 1.23456 -> "1.23": three digits, and never fewer than the integer part has; very small and very
 * large numbers as "2.50e-10".
 */
function number(value) {
  const size = Math.abs(value);
  if ((size > 0 && size < 1e-6) || size >= 1e15) return value.toExponential(2);
  const digits = size >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 };
  return value.toLocaleString("en-US", digits);
}

/** For large figures: 12,345,678 -> "12.3M". */
function compact(value) {
  if (value < 1e6) return number(value);
  return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 3 });
}

function percent(fraction) {
  return fraction.toLocaleString("en-US", { style: "percent", maximumFractionDigits: 1 });
}

/** "35% to 45%", with a * where it is not to rely on; null without an interval. bar: see Bar in sweep_content.py. */
function intervalText(bar, format) {
  if (!bar?.interval) return null;
  return `${bar.interval.map(format).join(" to ")}${bar.trusted ? "" : " *"}`;
}

/** "1 row", "2 rows". */
function plural(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** 7384 -> "2 h 3 min". */
function duration(seconds) {
  if (seconds < 120) return `${number(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
