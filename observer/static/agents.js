// The agents, as cards: what attests each, how far its chain is proven, what is wrong.

import { clean, find, getJson, h, hex, span, time } from "./dom.js";

const ANSWERS = [
  ["genuine_hardware", "Genuine hardware"],
  ["chain_and_tcb", "Chain and TCB"],
  ["binding_and_freshness", "Binding and freshness"],
  ["code_measured", "Code measured"],
  ["policy_enforced", "Policy enforced"],
];
const MARKS = { passed: "✓", failed: "✕", not_checked: "–" };
const WORDS = { passed: "passed", failed: "failed", not_checked: "not checked" };

function explain(answer) {
  const checks = (answer.checks ?? []).map((check) => `${check.status}: ${check.name}${check.detail ? ` – ${check.detail}` : ""}`);
  return [answer.detail, ...checks].filter(Boolean).map(clean).join("\n");
}

/** The separate answers of the verifier; never one green light. */
export function answerList(answers) {
  return h(
    "ul",
    { class: "answers" },
    ANSWERS.map(([name, title]) => {
      const answer = answers?.[name] ?? {};
      const status = Object.hasOwn(MARKS, answer.status) ? answer.status : "not_checked";
      return h(
        "li",
        { class: `answer-${status}`, title: explain(answer) },
        h("span", { class: "mark", "aria-hidden": "true" }, MARKS[status]),
        `${title}: ${WORDS[status]}`,
      );
    }),
  );
}

/** The TEE's name, the loud mark of a simulated one, and whether hardware attests it. */
export function attestation(passport) {
  if (!passport) return h("p", { class: "facts" }, h("span", { class: "badge bad" }, "No passport"));
  return h(
    "p",
    { class: "facts" },
    h("span", { class: "tee" }, passport.tee_name),
    passport.simulated && h("strong", { class: "badge simulated" }, "Simulated"),
  );
}

/** What the Observer's own verifier computed from the evidence. */
export function attested(passport) {
  const yes = passport?.hardware_attested === true;
  return h("span", { class: `badge ${yes ? "good" : "bad"}` }, yes ? "yes" : "no");
}

function expiry(passport, now) {
  if (!passport) return h("span", { class: "dim" }, "no passport");
  const left = new Date(passport.expires) - now;
  const node = h("span", { class: left <= 0 ? "wrong" : "" }, left <= 0 ? `expired ${span(left)} ago` : `in ${span(left)}`);
  node.title = passport.expires;
  return node;
}

function alarmLine(alarm) {
  return h(
    "li",
    {},
    h("strong", {}, alarm.code.replaceAll("_", " ")),
    `: ${alarm.detail} `,
    h("span", { class: "dim" }, alarm.count > 1 ? `(${alarm.count} times, last ` : "(", time(alarm.last), ")"),
  );
}

function row(name, ...value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function proof(boot) {
  const { verified_seq: stored, checkpoint_seq: signed } = boot;
  return row(
    "Chain verified to",
    `seq ${stored}`,
    h(
      "span",
      { class: "dim", title: "The newest checkpoint that agrees with the stored chain. Of a boot that crashed, a later one may have signed it: each decision says which" },
      signed === null ? " · nothing signed yet" : ` · signed to ${signed}`,
    ),
  );
}

function card(agent, now) {
  const [running, ...earlier] = agent.boots;
  const { passport } = running;
  const seen = now - new Date(agent.last_seen);
  const status = agent.connected ? agent.state || "connected" : "not connected";
  const mood = !agent.connected ? "off" : agent.state && agent.state !== "serving" ? "unwell" : "on";
  const node = h(
    "article",
    { class: `card${agent.alarms.length ? " alarmed" : ""}${passport?.simulated ? " is-simulated" : ""}` },
    h(
      "header",
      {},
      h("h3", { title: agent.agent }, agent.agent),
      h("span", { class: `state ${mood}` }, h("span", { class: "dot", "aria-hidden": "true" }), status),
    ),
    attestation(passport),
    h(
      "dl",
      { class: "card-facts" },
      row("Hardware attested", attested(passport)),
      row("Passport expires", expiry(passport, now)),
      proof(running),
      row("Last seen", agent.connected && seen < 5000 ? "now" : `${span(seen)} ago`),
      agent.lag > 0 && row("Not here yet", h("span", { class: "warned" }, `${agent.lag} records`)),
    ),
    agent.alarms.length > 0
      && h(
        "ul",
        { class: "alarm-list", "aria-label": `Alarms of ${agent.agent}` },
        agent.alarms.slice(0, 3).map(alarmLine),
        agent.alarms.length > 3 && h("li", {}, `and ${agent.alarms.length - 3} more`),
      ),
    h(
      "details",
      { "data-key": agent.agent },
      h("summary", {}, "Evidence and boots"),
      passport && answerList(passport.answers),
      h(
        "dl",
        { class: "card-facts" },
        passport && row("Policy", `${passport.bundle.name} ${passport.bundle.version} `, hex(passport.bundle.digest, 12)),
        passport && row("Passport", hex(passport.id, 21)),
        row("Boot", hex(running.boot)),
        row("Chain head", hex(running.head)),
        row("Agent version", agent.version || "unknown"),
      ),
      earlier.length > 0
        && h(
          "ul",
          { class: "boots" },
          earlier.map((boot) => h(
            "li",
            {},
            "Earlier boot ",
            hex(boot.boot, 12),
            `: ${boot.verified_seq} records`,
            boot.checkpoint_seq === null ? ", none signed for" : `, signed up to ${boot.checkpoint_seq}`,
            !boot.passport && ", no passport of its own",
          )),
        ),
    ),
  );
  return node;
}

let latest = null;

/** A steady order: what needs a look first, then by name. */
function order(a, b) {
  return (
    Number(b.alarms.length > 0) - Number(a.alarms.length > 0)
    || Number(b.connected) - Number(a.connected)
    || (a.agent < b.agent ? -1 : 1)
  );
}

function draw() {
  const holder = find("agents");
  const now = new Date(Date.now() + latest.skew);
  const open = new Set([...holder.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  const focused = document.activeElement?.closest?.("details")?.dataset.key;
  holder.replaceChildren(...latest.agents.map((agent) => card(agent, now)));
  for (const details of holder.querySelectorAll("details")) {
    details.open = open.has(details.dataset.key);
    if (details.dataset.key === focused) details.querySelector("summary").focus({ preventScroll: true });
  }
  if (!latest.agents.length) {
    holder.append(h("p", { class: "dim" }, "No agent has proven itself to this Observer yet."));
  }
}

function drawAlarms(alarms) {
  const proven = alarms.filter((alarm) => alarm.code !== "untrusted");
  const strip = find("alarms");
  strip.hidden = proven.length === 0;
  const agents = new Set(proven.map((alarm) => alarm.agent));
  strip.replaceChildren(
    h(
      "p",
      {},
      h("strong", {}, `${proven.length} ${proven.length === 1 ? "alarm" : "alarms"}`),
      ` about ${[...agents].slice(0, 3).join(", ")}${agents.size > 3 ? " and others" : ""}: `,
      `${[...new Set(proven.map((alarm) => alarm.code.replaceAll("_", " ")))].join(", ")}. `,
      "What contradicts the record is on the agent’s card.",
    ),
  );
  const refused = alarms.filter((alarm) => alarm.code === "untrusted");
  find("refused").hidden = refused.length === 0;
  const times = refused.reduce((sum, alarm) => sum + alarm.count, 0);
  find("refused-summary").textContent = `${times} refused ${times === 1 ? "connection" : "connections"}: peers that could not prove what they are`;
  find("refused-list").replaceChildren(
    h(
      "ul",
      {},
      refused.slice(0, 20).map((alarm) => h(
        "li", {}, time(alarm.last), " said to be ", h("code", {}, alarm.agent), `: ${alarm.detail}`,
        alarm.count > 1 && ` (${alarm.count} times)`,
      )),
    ),
  );
}

/** Read agents and alarms again and draw them. Resolves to the ids of the agents. */
export async function refreshAgents() {
  const [{ agents, now }, { alarms }] = await Promise.all([getJson("/api/agents"), getJson("/api/alarms")]);
  latest = { agents: agents.sort(order), skew: new Date(now) - Date.now() };
  draw();
  drawAlarms(alarms);
  return agents.map((agent) => agent.agent);
}

/** Draw again what was read, for the times that pass. */
export function redrawAgents() {
  if (latest) draw();
}
