// The agents, as cards: what attests each, how far its chain is proven, what is wrong.

import { clean, find, getJson, h, hex, simulated, span, time } from "./dom.js";

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
        answer.detail && h("span", { class: "why" }, answer.detail),
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
    passport.simulated && simulated(),
  );
}

/** What the Observer's own verifier computed from the evidence. Of a passport that has ended it says
 * nothing about now. */
export function attested(passport) {
  const yes = passport?.hardware_attested === true;
  if (yes && passport.expired) {
    return h("span", { class: "badge", title: `The passport that proved it ended at ${passport.expires}` }, "yes, until it expired");
  }
  return h("span", { class: `badge ${yes ? "good" : "bad"}` }, yes ? "yes" : "no");
}

function expiry(passport, now) {
  if (!passport) return h("span", { class: "dim" }, "no passport");
  const left = new Date(passport.expires) - now;
  const node = h("span", { class: left <= 0 ? "wrong" : "" }, left <= 0 ? `expired ${span(left)} ago` : `in ${span(left)}`);
  node.title = passport.expires;
  return node;
}

const PROOF = "fork"; // two signed or chained histories: never noise

function codeName(code) {
  return code.replaceAll("_", " ");
}

function whichBoot(alarm, running) {
  if (!alarm.boot) return "";
  return alarm.boot === running ? "this boot" : ["earlier boot ", hex(alarm.boot, 12)];
}

function alarmLine(alarm, running) {
  const which = whichBoot(alarm, running);
  return h(
    "li",
    {},
    h("strong", {}, codeName(alarm.code)),
    `: ${alarm.detail} `,
    alarm.code === PROOF && (alarm.boot === running
      ? "The first that was stored stays; no more of this boot is taken. "
      : "The first that was stored stays; that boot is set aside and the agent goes on. "),
    h(
      "span",
      { class: "dim" },
      "(",
      which,
      which && ", ",
      alarm.count > 1 ? `${alarm.count} times, first ` : "",
      time(alarm.first),
      alarm.count > 1 && ", last ",
      alarm.count > 1 && time(alarm.last),
      alarm.evidence_bytes > 0 && ", ",
      alarm.evidence_bytes > 0 && h("a", { href: `/api/alarms/${alarm.id}` }, "evidence"),
      ")",
    ),
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
    { "data-agent": agent.agent, class: `card${agent.alarms.length ? " alarmed" : ""}${passport?.simulated ? " is-simulated" : ""}` },
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
      agent.lag > 0
        && row("Not delivered yet", h("span", { class: "warned" }, `${agent.lag} ${agent.lag === 1 ? "record" : "records"}`)),
    ),
    agent.alarms.length > 0
      && h(
        "ul",
        { class: "alarm-list", "aria-label": `Alarms of ${agent.agent}` },
        agent.alarms.slice(0, 3).map((alarm) => alarmLine(alarm, running.boot)),
        agent.alarms.length > 3
          && h("li", {}, h("a", { href: "/api/alarms" }, `and ${agent.alarms.length - 3} more`)),
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
            agent.alarms.some((alarm) => alarm.code === PROOF && alarm.boot === boot.boot)
              && h("strong", { class: "wrong" }, ", two histories"),
            boot.passport?.simulated && ", simulated",
            boot.checkpoint_seq === null ? ", none signed for" : `, signed up to ${boot.checkpoint_seq}`,
            !boot.passport && ", no passport of its own",
          )),
        ),
    ),
  );
  return node;
}

let latest = null;

/** Whether a decision came from a simulated TEE: by its boot, or, where that is not among the newest
 * boots of its agent, by the agent's running one. Undefined: not known here. */
export function isSimulated(decision) {
  return latest?.simulated.get(decision.boot) ?? latest?.simulated.get(decision.agent);
}

function simulatedOnes(agents) {
  const found = new Map();
  for (const agent of agents) {
    for (const boot of [...agent.boots].reverse()) {
      if (!boot.passport) continue;
      found.set(boot.boot, boot.passport.simulated);
      found.set(agent.agent, boot.passport.simulated);
    }
  }
  return found;
}

const SHOWN = 12; // cards, until somebody asks for all
const LONG_GONE = 24 * 3600 * 1000; // ms; who left before that is expected to be away
let all = false;

function need(agent, now) {
  if (agent.alarms.length > 0) return 0;
  if (!agent.connected) return now - new Date(agent.last_seen) < LONG_GONE ? 1 : 4;
  return agent.state && agent.state !== "serving" ? 2 : 3;
}

/** A steady order: what needs a look first, then by name. */
const order = (now) => (a, b) => need(a, now) - need(b, now) || (a.agent < b.agent ? -1 : 1);

function summary(agents) {
  const gone = agents.filter((agent) => !agent.connected).length;
  const alarmed = agents.filter((agent) => agent.alarms.length > 0).length;
  return [
    agents.length > 0 && `${agents.length}`,
    gone > 0 && `${gone} not connected`,
    alarmed > 0 && `${alarmed} with alarms`,
  ].filter(Boolean).join(" · ");
}

const FOCUSED = "summary, a";

/** Where in which card the focus is: it must not go when the card is drawn again. */
function place(element) {
  const own = element?.closest?.(".card");
  return own && { agent: own.dataset.agent, number: [...own.querySelectorAll(FOCUSED)].indexOf(element) };
}

/** Somebody is about to copy from a card. */
function selecting() {
  const selection = getSelection();
  return !selection.isCollapsed && find("agents").contains(selection.anchorNode);
}

function draw() {
  const holder = find("agents");
  const now = new Date(Date.now() + latest.skew);
  latest.agents.sort(order(now));
  find("agents-count").textContent = summary(latest.agents);
  const more = find("agents-all");
  more.hidden = latest.agents.length <= SHOWN;
  more.textContent = all ? "Show fewer" : `Show all ${latest.agents.length} agents`;
  more.setAttribute("aria-expanded", String(all));
  const open = new Set([...holder.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  const focused = place(document.activeElement);
  holder.replaceChildren(...(all ? latest.agents : latest.agents.slice(0, SHOWN)).map((agent) => card(agent, now)));
  for (const details of holder.querySelectorAll("details")) {
    details.open = open.has(details.dataset.key);
  }
  if (focused) {
    const same = [...holder.children].find((one) => one.dataset.agent === focused.agent);
    same?.querySelectorAll(FOCUSED)[focused.number]?.focus({ preventScroll: true });
  }
  if (!latest.agents.length) {
    holder.append(h("p", { class: "dim" }, "No agent has proven itself to this Observer yet."));
  }
}

let drawn = "";

function drawAlarms(alarms) {
  const text = JSON.stringify(alarms);
  if (text === drawn) return; // a link in it may have the focus
  drawn = text;
  const proven = alarms.filter((alarm) => alarm.code !== "untrusted");
  const forks = proven.filter((alarm) => alarm.code === PROOF);
  const strip = find("alarms");
  strip.hidden = proven.length === 0;
  strip.classList.toggle("proof", forks.length > 0);
  const agents = new Set(proven.map((alarm) => alarm.agent));
  strip.replaceChildren(
    h(
      "p",
      {},
      h("strong", {}, `${proven.length} ${proven.length === 1 ? "alarm" : "alarms"}`),
      ` about ${[...agents].slice(0, 3).join(", ")}${agents.size > 3 ? " and others" : ""}: `,
      `${[...new Set(proven.map((alarm) => codeName(alarm.code)))].join(", ")}. `,
      "What contradicts the record is on the agent’s card.",
    ),
    forks.length > 0 && h(
      "ul",
      {},
      forks.slice(0, 3).map((alarm) => h(
        "li", {}, `${alarm.agent}: two histories of boot `, hex(alarm.boot, 12), ` at seq ${alarm.seq}, first seen `, time(alarm.first),
        ". They cannot both be true: ", h("a", { href: `/api/alarms/${alarm.id}` }, "evidence"), ".",
      )),
      forks.length > 3 && h("li", {}, h("a", { href: "/api/alarms" }, `and ${forks.length - 3} more`)),
    ) || "",
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
  latest = { agents, skew: new Date(now) - Date.now(), simulated: simulatedOnes(agents) };
  if (!selecting()) draw();
  drawAlarms(alarms);
  return agents.map((agent) => agent.agent);
}

find("agents-all").addEventListener("click", () => {
  all = !all;
  draw();
});

/** Draw again what was read, for the times that pass. */
export function redrawAgents() {
  if (latest && !selecting()) draw();
}
