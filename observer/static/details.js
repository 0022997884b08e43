// The panel beside the table: everything about one decision.

import { answerList, attestation, attested } from "./agents.js";
import { find, getJson, h, hex, outcomeBadge, pairs, simulated, time } from "./dom.js";

let opener = null;
let wanted = "";

function section(title, ...content) {
  return h("section", {}, h("h4", {}, title), content);
}

function list(items) {
  return items.length ? h("ul", { class: "plain" }, items.map((item) => h("li", {}, item))) : h("span", { class: "dim" }, "none");
}

function value(item) {
  if (Array.isArray(item)) return item.length ? item.join(", ") : "none";
  return typeof item === "string" ? `“${item}”` : String(item);
}

function latency(steps) {
  const entries = Object.entries(steps);
  const most = Math.max(1, ...entries.map(([, us]) => us));
  return h(
    "ul",
    { class: "latency" },
    entries.map(([name, us]) => h(
      "li",
      {},
      h("span", {}, name),
      h("meter", { min: 0, max: most, value: us, "aria-label": name }),
      h("span", { class: "number" }, us >= 1000 ? `${(us / 1000).toFixed(1)} ms` : `${us} µs`),
    )),
  );
}

function table(entries) {
  return pairs(Object.entries(entries).map(([name, item]) => [name, value(item)]));
}

function some(entries) {
  return Object.keys(entries).length > 0;
}

function chainPart(d) {
  const { chain } = d;
  const signed = chain.checkpoint;
  return section(
    "Place in the chain",
    h(
      "p",
      { class: signed && !signed.recovered_by ? "ok" : "warned" },
      !signed
        ? "Chained and stored; not covered by a signed checkpoint yet."
        : signed.recovered_by
          ? `Signed up to seq ${signed.seq} by a later boot, which found it on its disk.`
          : `✓ Covered by a checkpoint that this boot signed (up to seq ${signed.seq}).`,
    ),
    pairs([
      ["Boot", hex(d.boot, 32)],
      ["Seq", chain.seq],
      ["Head before", hex(chain.previous_head, 64)],
      ["Head after", hex(chain.head, 64)],
      ["Received", time(d.received, { full: true })],
    ]),
    h(
      "details",
      {},
      h("summary", {}, `The record itself (${chain.raw_bytes} bytes of CBOR)`),
      h("pre", { tabindex: "0" }, chain.raw),
    ),
  );
}

function draw(d) {
  const c = d.coverage;
  return [
    h("p", { class: "lead" }, outcomeBadge(d.outcome), " ", h("span", { class: "phase" }, d.phase), " ", time(d.time, { full: true }), d.attestation.passport?.simulated && simulated()),
    !c.complete && h("p", { class: "warned" }, "The exchange ended before everything was seen."),
    section("Reasons", list(d.reasons)),
    some(d.obligations) && section("What the door had to do", table(d.obligations)),
    some(d.claims) && section("Claims", table(d.claims)),
    section(
      "Request",
      pairs([
        ["Principal", d.principal],
        ["Action", d.action],
        ["Resource", `${d.resource[0]}::"${d.resource[1]}"`],
        ["Model", d.model],
        ["Route", d.route],
        ["Agent", d.agent],
        ["Decision", h("code", {}, d.decision_id)],
        ["Request", h("code", {}, d.request_id)],
        ["Trace", h("code", {}, d.trace_id)],
      ]),
    ),
    section(
      "What was looked at",
      pairs([
        ["Text seen", `${c.seen} bytes in ${c.fields} ${c.fields === 1 ? "text" : "texts"}`],
        ["Released", `${c.released} bytes`],
        c.windows > 0 && ["Windows", c.windows],
      ]),
      d.texts.length > 0
        && h(
          "details",
          {},
          h("summary", {}, `Salted hashes of ${d.texts.length} ${d.texts.length === 1 ? "text" : "texts"}`),
          list(d.texts.map((text) => h("span", {}, hex(text.sha256, 64), ` ${text.size} bytes`))),
        ),
    ),
    some(d.latency_us) && section("Time taken", latency(d.latency_us)),
    some(d.auditors) && section("Auditors", table(d.auditors)),
    d.groups !== null && section("Groups that the bundle names", d.groups.join(", ") || "none"),
    d.platform !== null && section("Platform that policies saw", table(d.platform)),
    d.shadow !== null && section("Shadow outcome", d.shadow),
    section(
      "Policy",
      pairs([["Bundle", `${d.bundle.name} ${d.bundle.version}`], ["Digest", hex(d.bundle.digest, 64)]]),
    ),
    section(
      "Attestation",
      attestation(d.attestation.passport),
      d.attestation.passport && answerList(d.attestation.passport.answers),
      pairs([
        ["Hardware attested", attested(d.attestation.passport)],
        ["Passport", h("code", {}, d.passport || "none")],
      ]),
    ),
    chainPart(d),
    h("p", {}, h("a", { href: `/api/decisions/${d.boot}/${d.seq}` }, "All of this as JSON")),
  ].filter(Boolean);
}

function mark(key) {
  for (const row of document.querySelectorAll("tr[aria-current]")) row.removeAttribute("aria-current");
  document.querySelector(`tr[data-key="${CSS.escape(key)}"]`)?.setAttribute("aria-current", "true");
}

/** Show one decision; `key` is BOOT/SEQ. */
export async function openDetails(key, { focus = true } = {}) {
  wanted = key;
  if (focus) opener = document.activeElement;
  const panel = find("details");
  const body = find("details-body");
  mark(key);
  try {
    const decision = await getJson(`/api/decisions/${key}`);
    if (wanted !== key) return;
    body.replaceChildren(...draw(decision));
  } catch (error) {
    if (wanted !== key) return;
    body.replaceChildren(h("p", { class: "wrong" }, `Cannot show it: ${error.message}`));
  }
  panel.hidden = false;
  document.body.classList.add("with-details");
  panel.scrollTop = 0;
  if (focus) find("details-title").focus({ preventScroll: true });
}

/** Hide the panel, and give the focus back to the row it came from. */
export function closeDetails() {
  wanted = "";
  find("details").hidden = true;
  document.body.classList.remove("with-details");
  mark("");
  if (opener?.isConnected) opener.focus({ preventScroll: true });
  opener = null;
}

/** Mark the open row again after the table was drawn. */
export function markOpen() {
  if (wanted) mark(wanted);
}
