// Building nodes. Everything shown here was written by somebody else, so nodes are only ever made
// from text: nothing in this page parses a string as HTML.

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Text with control and direction characters made visible: they could disguise what is written. */
export function clean(text) {
  return String(text).replace(
    UNSEEN,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** An element with attributes and children; strings become text nodes. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(clean(child)));
  }
  return node;
}

export const find = (id) => document.getElementById(id);

const OUTCOMES = { proceed: "✓", warn: "!", redact: "▬", deny: "✕" };

/** A coloured badge that also says its word. */
export function outcomeBadge(outcome) {
  const known = Object.hasOwn(OUTCOMES, outcome);
  return h(
    "span",
    { class: `badge ${known ? `outcome-${outcome}` : ""}` },
    h("span", { class: "glyph", "aria-hidden": "true" }, known ? OUTCOMES[outcome] : "?"),
    outcome,
  );
}

/** The loud mark of what no hardware attests. */
export function simulated() {
  return h("strong", { class: "badge simulated", title: "On a simulated TEE: no hardware attests this" }, "Simulated");
}

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(undefined, { day: "2-digit", month: "short" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long", hourCycle: "h23" });

/** The zone that times are shown in, as people here write it. */
export const zone = () => new Intl.DateTimeFormat(undefined, { timeZoneName: "short" })
  .formatToParts(new Date()).find((part) => part.type === "timeZoneName")?.value ?? "";

/** A moment as people read it here; the exact one in the tooltip. */
export function time(text, { full = false } = {}) {
  if (!text) return h("span", { class: "dim" }, "never");
  const date = new Date(text);
  const today = date.toDateString() === new Date().toDateString();
  const shown = full ? whole.format(date) : clock.format(date);
  return h("time", { datetime: text, title: text }, full || today ? shown : `${day.format(date)} ${shown}`);
}

/** How long until (positive) or since (negative) a moment, in words. */
export function span(milliseconds) {
  const seconds = Math.round(Math.abs(milliseconds) / 1000);
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}

/** Hex digits, short, whole in the tooltip. */
export function hex(text, digits = 16) {
  if (!text) return h("span", { class: "dim" }, "none");
  return h("code", { title: text }, text.length > digits ? `${text.slice(0, digits)}…` : text);
}

/** Pairs of a name and a value, as a description list. */
export function pairs(items) {
  return h(
    "dl",
    { class: "pairs" },
    items.filter(Boolean).map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** The JSON of an address of this Observer. */
export async function getJson(address) {
  const answer = await fetch(address, { headers: { accept: "application/json" } });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw new Error(body.error?.message ?? `the Observer answered ${answer.status}`);
  }
  return body;
}
