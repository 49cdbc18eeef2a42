"use strict";
// Messages and responses, and the colours of finish reasons and scores. `state` is what rowList of rows.js makes.

const MOST_MARKS = 24; // a row with more responses gets a count in the list instead of a mark for each

/** The prompt of a row as a chat, and below it what is known of the row: [[name, text or null], ...]. */
function promptOf({ filter: { pattern } }, { prompt }, facts) {
  const known = facts.filter(([, text]) => isPresent(text)).map(([name, text]) => [name, highlighted(text, pattern)]);
  const chat = element("div", { class: "chat" }, prompt.map((message) => bubble(message, pattern)));
  return [chat, known.length > 0 && definitions(known)].filter(Boolean);
}

function bubble({ role, content }, pattern) {
  const side = role === "assistant" ? "assistant" : role === "system" ? "system" : "user";
  const text = element("div", { class: "text" }, content ? highlighted(content, pattern) : nothing("empty"));
  return element("div", { class: `bubble ${side}` }, element("div", { class: "role" }, role), text);
}

function card(state, response) {
  const { sample_idx: index, text, finish_reason: reason, tokens, score, answer, error, looping, thinking, unlikely = [] } = response;
  const mark = (found) => highlighted(found, state.filter.pattern);
  const head = element(
    "header",
    {},
    element("span", { class: "index" }, `#${index}`),
    badge(reason, reasonTone(reason)),
    looping && badge("looping", "warn"),
    thinking && !thinking.closed && badge("thinking never closed", "warn"),
    isNumber(tokens) && element("span", { class: "tokens" }, plural(tokens, "token")),
    isNumber(score) && badge(`score ${number(score)}`, scoreTone(response, state.threshold)),
  );
  const body = text === null ? nothing("no response") : text.trim() ? mark(text) : nothing(thinking ? "no answer" : "nothing but white space");
  return element(
    "div",
    { class: "card", "data-sample": index },
    head,
    thinking && thinkingOf(state, thinking),
    element("div", { class: "text", tabindex: 0, role: "group", "aria-label": `response ${index}` }, body),
    unlikely.length > 0 && leastLikely(unlikely, mark),
    answer !== null && element("p", { class: "answer" }, element("span", {}, "answer "), mark(answer)),
    error !== null && element("p", { class: "error" }, mark(error)),
  );
}

/** What came before the answer: a line to open; open where the search finds something in it. */
function thinkingOf({ filter: { pattern } }, { text, tokens }) {
  const title = isNumber(tokens) ? `thinking, ${plural(tokens, "token")}` : "thinking";
  const node = folded(title, element("div", { class: "text" }, highlighted(text, pattern)));
  node.className = "thinking"; // a line of a card, no panel
  node.open = Boolean(pattern) && contains(text, pattern);
  return node;
}

/** The tokens that were the least probable where they were sampled; without a tokenizer, their numbers in it. */
function leastLikely(tokens, mark) {
  const one = ({ position, id, text, probability }, at) => [
    at > 0 && ", ",
    element("code", { title: `token ${position}, id ${id}` }, text === null ? `id ${id}` : mark(JSON.stringify(text))),
    ` ${probable(probability)}`,
  ];
  return element("p", { class: "unlikely" }, element("span", {}, "least likely "), ...tokens.map(one));
}

/** 0.0123 -> "1.2%", and what is rarer than one in ten thousand is said so. */
function probable(probability) {
  return probability < 1e-4 ? "< 0.01%" : `${(100 * probability).toPrecision(2)}%`;
}

function nothing(why) {
  return element("span", { class: "missing" }, `(${why})`);
}

/** One square per response, coloured by score or by finish reason, with its meaning as text. */
function marks(state, responses, most = MOST_MARKS) {
  const summary = outcomes(state, responses);
  if (responses.length > most) return element("span", { class: "marks" }, summary);
  const squares = responses.map((response) => element("i", { class: toneOf(state, response) }));
  return element("span", { class: "marks", role: "img", "aria-label": summary, title: summary }, squares);
}

/** "3 of 8 passed", or without scores "8 responses". */
function outcomes(state, responses) {
  return state.scored
    ? `${number(passed(state, responses))} of ${number(responses.length)} passed`
    : plural(responses.length, "response");
}

function passed({ threshold }, responses) {
  return responses.filter((response) => outcomeOf(response, threshold) === "passed").length;
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

/** Long texts scroll in their cards, until this is ticked. */
function fullTexts({ detail }) {
  const box = element("input", { type: "checkbox", change: () => detail.classList.toggle("full", box.checked) });
  box.checked = detail.classList.contains("full");
  return element("label", {}, box, "full texts");
}
