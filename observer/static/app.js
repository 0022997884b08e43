// The live page: newest decisions first, filters in the address, pause, older ones on demand.

import { isSimulated, redrawAgents, refreshAgents } from "./agents.js";
import { closeDetails, markOpen, openDetails } from "./details.js";
import { clean, find, getJson, h, outcomeBadge, simulated, time, zone } from "./dom.js";

const FILTERS = ["q", "outcome", "phase", "agent", "model", "principal", "reason"];
const MAX_ROWS = 500;
const PAGE = 100;
const MAX_KNOWN = 200;

const state = {
  rows: [], // newest first; ids fall
  waiting: [], // arrived while held back, newest first
  waitingCount: 0,
  skipped: false, // more arrived while held back than are kept
  before: null, // where older ones begin
  paused: false,
  history: false, // older ones were loaded and the newest had to go
  reading: false, // older ones are on the way: the end of the table must not move
  source: null,
  generation: 0,
  loaded: false,
  search: "", // of the address that is shown
};

// -- the address ---------------------------------------------------------------------------

function filters() {
  const given = new URLSearchParams(location.search);
  return Object.fromEntries(FILTERS.map((name) => [name, given.get(name) ?? ""]).filter(([, v]) => v));
}

function query(extra = {}) {
  const text = new URLSearchParams({ ...filters(), ...extra }).toString();
  return text ? `?${text}` : "";
}

function setFilters(values) {
  const text = new URLSearchParams(Object.entries(values).filter(([, v]) => v)).toString();
  const address = `${location.pathname}${text ? `?${text}` : ""}${location.hash}`;
  if (address !== `${location.pathname}${location.search}${location.hash}`) {
    history.pushState(null, "", address);
    follow();
  }
}

function showFilters() {
  const given = filters();
  for (const name of FILTERS) {
    const field = find("filters").elements.namedItem(name);
    if (field !== document.activeElement || !given[name]) field.value = given[name] ?? "";
    field.closest("label").classList.toggle("set", Boolean(given[name]));
  }
  find("clear").hidden = Object.keys(given).length === 0;
  find("export").href = `/api/export${query()}`;
}

// -- the table -----------------------------------------------------------------------------

const keyOf = (decision) => `${decision.boot}/${decision.seq}`;

function pick(name, value, className = "") {
  return h(
    "button",
    { type: "button", class: `pick ${className}`, "data-filter": name, "data-value": value, title: `Show only ${name} ${clean(value)}` },
    value,
  );
}

function rowOf(d) {
  return h(
    "tr",
    { "data-key": keyOf(d), "data-id": d.id, class: `row-${["proceed", "warn", "redact", "deny"].includes(d.outcome) ? d.outcome : "other"}` },
    h("td", { class: "when" }, h("button", { type: "button", class: "open", "aria-label": `Details of the decision at ${d.time}` }, time(d.time))),
    h("td", {}, outcomeBadge(d.outcome), !d.complete && h("span", { class: "cut", title: "The exchange ended before everything was seen" }, "cut off")),
    h("td", {}, d.phase),
    h("td", { class: "name" }, h("span", { class: "with-mark" }, pick("agent", d.agent), markOf(d))),
    h("td", { class: "name" }, d.model ? pick("model", d.model) : h("span", { class: "dim" }, "–")),
    h("td", { class: "name" }, pick("principal", d.principal)),
    h(
      "td",
      { class: "reasons" },
      d.reasons.slice(0, 4).map((reason) => pick("reason", reason, "chip")),
      d.reasons.length > 4 && h("span", { class: "dim" }, `and ${d.reasons.length - 4} more`),
    ),
  );
}

/** Where the decision's TEE is a simulated one, it says so. */
function markOf(d) {
  if (!isSimulated(d)) return null;
  const mark = simulated();
  mark.classList.add("mark-simulated");
  return mark;
}

/** The agents are known (again): rows that came before them get their marks. */
function markRows() {
  for (const d of state.rows) {
    const holder = find("rows").querySelector(`tr[data-id="${d.id}"] .with-mark`);
    const mark = markOf(d);
    if (holder && Boolean(mark) !== Boolean(holder.querySelector(".simulated"))) {
      holder.querySelector(".simulated")?.remove();
      if (mark) holder.append(mark);
    }
  }
}

function remember(decisions) {
  for (const [list, field] of [["known-models", "model"], ["known-principals", "principal"]]) {
    suggest(list, decisions.map((d) => d[field]));
  }
  suggest("known-reasons", decisions.flatMap((d) => d.reasons));
}

function suggest(listId, values) {
  const list = find(listId);
  const known = new Set([...list.children].map((option) => option.value));
  for (const item of values) {
    if (item && !known.has(item) && known.size < MAX_KNOWN) {
      known.add(item);
      list.append(h("option", { value: item }));
    }
  }
}

function redraw() {
  find("rows").replaceChildren(...state.rows.map(rowOf));
  afterRows();
}

function afterRows() {
  find("older").hidden = state.before === null;
  find("table").hidden = state.rows.length === 0;
  showEmpty();
  showWaiting();
  markOpen();
}

/** Put newer decisions on top; the oldest leave the page beyond the limit. */
function prepend(decisions) {
  const newest = state.rows[0]?.id ?? 0;
  const fresh = decisions.filter((d) => d.id > newest);
  if (!fresh.length) return;
  state.rows.unshift(...fresh);
  find("rows").prepend(...fresh.map(rowOf));
  while (state.rows.length > MAX_ROWS) {
    state.rows.pop();
    find("rows").lastElementChild.remove();
  }
  if (state.rows.length === MAX_ROWS) state.before = state.rows.at(-1).id;
  remember(fresh);
  afterRows();
  announce(fresh.length);
}

function append(decisions) {
  state.rows.push(...decisions);
  find("rows").append(...decisions.map(rowOf));
  while (state.rows.length > MAX_ROWS) {
    state.rows.shift();
    find("rows").firstElementChild.remove();
    state.history = true;
  }
  remember(decisions);
  afterRows();
}

/** True while rows must not move under the reader's eyes. */
function held() {
  return (
    state.paused
    || state.history
    || state.reading
    || !find("details").hidden
    || find("table").getBoundingClientRect().top < -40
  );
}

function arrive(decisions) {
  if (!held() && state.waiting.length === 0 && !state.skipped) {
    prepend(decisions);
    return;
  }
  const newest = state.waiting[0]?.id ?? state.rows[0]?.id ?? 0;
  const fresh = decisions.filter((d) => d.id > newest);
  state.waiting.unshift(...fresh);
  state.waitingCount += fresh.length;
  if (state.waiting.length > MAX_ROWS) {
    state.waiting.length = MAX_ROWS;
    state.skipped = true;
  }
  showWaiting();
}

function showWaiting() {
  const button = find("new");
  const some = state.waitingCount > 0;
  button.hidden = !some && !state.history;
  const count = state.waitingCount.toLocaleString();
  button.textContent = some ? `▲ ${count} new – show` : "▲ Back to the newest";
  find("pause").textContent = state.paused ? (some ? `Resume (${count} new)` : "Resume") : "Pause";
  find("pause").setAttribute("aria-pressed", String(state.paused));
  document.title = some ? `(${count}) Lucid Observer` : "Lucid Observer";
}

function release() {
  const { waiting } = state;
  const reread = state.skipped || state.history;
  state.waiting = [];
  state.waitingCount = 0;
  state.skipped = false;
  state.history = false;
  if (reread) load();
  else prepend(waiting);
  showWaiting();
}

function showEmpty() {
  const empty = find("empty");
  empty.hidden = state.rows.length > 0 || !state.loaded;
  if (empty.hidden) return;
  if (Object.keys(filters()).length > 0) {
    empty.replaceChildren(
      h("p", { class: "empty-title" }, "Nothing matches these filters."),
      h("p", {}, state.before === null
        ? "Names and reasons match exactly; Search finds parts of them. New decisions that match appear here by themselves."
        : "Not everything has been looked through: load older ones to go on."),
    );
    return;
  }
  const { grpc, simulated: accepted, tls } = document.body.dataset;
  const target = grpc.replace(/^(0\.0\.0\.0|\[::\]):/, "NAME-OF-THIS-MACHINE:");
  empty.replaceChildren(
    h("p", { class: "empty-title" }, "No decisions yet."),
    h("p", {}, "Point an agent at this Observer, in its agent.toml:"),
    h("pre", {}, `[observer]\ntarget = "${target}"${tls === "yes" ? '\nca_file = "AUTHORITY-OF-ITS-CERTIFICATE.pem"' : ""}`),
    h("p", {}, "Start it with ", h("code", {}, "lucid-agent run --config agent.toml"), " and send a request through its gateway. The decision appears here by itself."),
    accepted === "yes"
      ? h("p", { class: "dim" }, "Simulated TEEs are accepted here if their root was given with ", h("code", { class: "flag" }, "--simulated-root"), ".")
      : h("p", { class: "dim" }, "An agent on a simulated TEE is refused unless this Observer runs with ", h("code", { class: "flag" }, "--allow-simulated"), "."),
  );
}

let announced = 0;
let unannounced = 0;
function announce(count) {
  unannounced += count;
  if (Date.now() - announced < 5000) return;
  announced = Date.now();
  find("announce").textContent = `${unannounced} new ${unannounced === 1 ? "decision" : "decisions"}`;
  unannounced = 0;
}

function notice(text) {
  find("notice").hidden = !text;
  find("notice").textContent = text;
}

// -- reading -------------------------------------------------------------------------------

async function load() {
  const generation = state.generation;
  try {
    const { decisions, before } = await getJson(`/api/decisions${query({ limit: PAGE })}`);
    if (generation !== state.generation) return;
    state.rows = decisions;
    state.before = before;
    state.history = false;
    state.loaded = true;
    notice("");
    remember(decisions);
    redraw();
  } catch (error) {
    if (generation === state.generation) notice(`The decisions cannot be read: ${error.message}`);
  }
}

async function loadOlder() {
  const generation = state.generation;
  const button = find("older");
  button.disabled = true;
  state.reading = true;
  try {
    const { decisions, before } = await getJson(`/api/decisions${query({ limit: PAGE, before: state.before })}`);
    if (generation !== state.generation) return;
    state.before = before;
    append(decisions);
  } catch (error) {
    notice(`Older decisions cannot be read: ${error.message}`);
  } finally {
    button.disabled = false;
    state.reading = false;
    if (state.waitingCount && !held()) release();
  }
}

/** What arrived while this page was not listening. */
async function catchUp() {
  const generation = state.generation;
  const { decisions } = await getJson(`/api/decisions${query({ limit: PAGE })}`);
  if (generation !== state.generation) return;
  const newest = state.waiting[0]?.id ?? state.rows[0]?.id ?? 0;
  const whole = decisions.length < PAGE || decisions.some((d) => d.id <= newest);
  if (whole) arrive(decisions);
  else if (held()) {
    arrive(decisions);
    state.skipped = true;
  } else await load();
}

function link(kind, text) {
  find("link").dataset.state = kind;
  find("link-text").textContent = text;
}

let agentsTimer = 0;
let agentsRead = 0;
function agentsSoon() {
  if (!agentsTimer) {
    const wait = Math.max(100, agentsRead + 2000 - Date.now()); // at most every two seconds
    agentsTimer = setTimeout(async () => {
      agentsTimer = 0;
      agentsRead = Date.now();
      try {
        suggest("known-agents", await refreshAgents());
        markRows();
      } catch {
        // The link's state already says that the Observer cannot be reached.
      }
    }, 300);
  }
}

/** Listen with the filters of the address; the Observer sends only what passes them. */
function follow() {
  state.source?.close();
  state.generation += 1;
  state.search = location.search;
  Object.assign(state, { rows: [], waiting: [], waitingCount: 0, skipped: false, before: null, history: false, loaded: false });
  showFilters();
  redraw();
  const source = new EventSource(`/api/events${query()}`);
  state.source = source;
  source.addEventListener("hello", () => {
    link("live", "Live");
    agentsSoon();
    if (state.loaded) catchUp().catch(() => {});
    else load();
  });
  source.addEventListener("decisions", (message) => {
    if (state.loaded) arrive(JSON.parse(message.data).reverse());
  });
  source.addEventListener("missed", (message) => {
    notice(`${JSON.parse(message.data).count} decisions came faster than this page could take; it reads them again.`);
    setTimeout(() => notice(""), 8000);
    catchUp().catch(() => {});
  });
  source.addEventListener("agents", agentsSoon);
  source.addEventListener("alarms", agentsSoon);
  source.addEventListener("error", () => {
    const gone = source.readyState === EventSource.CLOSED;
    link("lost", gone ? "Not live: reload to try again" : "Connection lost, trying again…");
    if (!state.loaded) load();
  });
}

// -- what people do ------------------------------------------------------------------------

function showHash() {
  const found = /^#d=([0-9a-f]{1,64}\/[0-9]{1,18})$/.exec(location.hash);
  if (found) openDetails(found[1]);
  else {
    closeDetails();
    if (state.waitingCount && !held()) release();
  }
}

let typing = 0;
find("filters").addEventListener("input", (event) => {
  clearTimeout(typing);
  const wait = event.target instanceof HTMLSelectElement ? 0 : 350;
  typing = setTimeout(() => setFilters(Object.fromEntries(new FormData(find("filters")))), wait);
});
find("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  setFilters(Object.fromEntries(new FormData(find("filters"))));
});
find("clear").addEventListener("click", () => setFilters({}));
find("older").addEventListener("click", loadOlder);
find("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  if (!state.paused && !state.history) release();
  showWaiting();
});
find("new").addEventListener("click", () => {
  state.paused = false;
  release();
  find("decisions").scrollIntoView({ block: "start" });
});
find("rows").addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-filter]");
  if (chosen) {
    setFilters({ ...filters(), [chosen.dataset.filter]: chosen.dataset.value });
    return;
  }
  const row = event.target.closest("tr");
  if (row && !String(getSelection())) location.hash = `d=${row.dataset.key}`;
});
find("details-close").addEventListener("click", () => {
  history.pushState(null, "", `${location.pathname}${location.search}`);
  showHash();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("details").hidden) find("details-close").click();
});
addEventListener("hashchange", showHash);
addEventListener("popstate", () => {
  if (location.search !== state.search) follow();
});
addEventListener("scroll", () => {
  if (state.waitingCount && !held()) release();
}, { passive: true });
find("zone").textContent = zone();
setInterval(redrawAgents, 5000);
setInterval(agentsSoon, 15000);

follow();
showHash();
