"""One scrape: every metric of the daemon, read from its parts. `docs/metrics.md` explains each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final, Protocol

from agent import logs
from agent.api.health import Parts
from agent.attesting.attester import Attester
from agent.boottime import wall_ns
from agent.config import Config
from agent.life.lifecycle import Part, State
from agent.life.notify import Notifier
from agent.life.pulse import Pulse
from agent.life.supervise import Faults
from agent.life.watchdog import Freshness
from agent.metrics.auditor_metrics import auditor_metrics
from agent.metrics.metrics import Family, counter, counters, gauge, gauges, histogram, info
from agent.metrics.process import Process
from agent.metrics.tls_metrics import tls_metrics
from agent.quotes.line import QuoteLine
from attestation.checks import CheckStatus

_TASKS: Final = (
    *("api", "code_pages", "journal", "policy", "pulse", "reload", "renewal", "stream"),
    "tls",
)


class Scraped(Parts, Protocol):
    """What is read, beside what the status is made of. `agent.parts` are."""

    config: Config
    attester: Attester
    quote_line: QuoteLine
    freshness: Freshness
    notifier: Notifier
    pulse: Pulse
    faults: Faults


def scrape(parts: Scraped) -> Iterator[Family]:
    """All families, in the order of the document."""
    yield from _life(parts)
    yield from _attestation(parts)
    yield from _decisions(parts)
    yield from tls_metrics(parts.tls)
    yield from auditor_metrics(parts.auditors.clients)
    yield from _journal(parts)
    yield from _stream(parts)
    yield from _drops(parts)
    yield from _process(parts)


def _life(parts: Scraped) -> Iterator[Family]:
    standing = parts.lifecycle.look()
    yield info("lucid_build_info", "The version that runs.", {"version": parts.version})
    yield gauge("lucid_ready", "1 if requests can be decided and recorded.", standing.ready)
    states = {state.value: float(state is standing.state) for state in State}
    yield gauges("lucid_state", "1 for the state of the life cycle, 0 for others.", "state", states)
    age = (parts.clock() - standing.since_ns) / 1e9
    yield gauge("lucid_state_age_seconds", "How long the state has held.", age)
    entered: dict[tuple[str, ...], int] = {
        (state.value,): count for state, count in parts.lifecycle.transitions.items()
    }
    yield counters("lucid_state_entries", "How often each state was entered.", ("state",), entered)
    troubled = {trouble.part for trouble, _ in standing.troubles}
    yield gauges(
        "lucid_trouble",
        "1 for each part that has a trouble.",
        "part",
        {part.value: float(part in troubled) for part in Part},
    )
    yield counters(
        "lucid_clock_jumps",
        "Suspends, and steps of the wall clock.",
        ("kind",),
        {("step",): 0, ("suspend",): 0} | parts.pulse.jumps,
    )
    yield gauges(
        "lucid_part_late_seconds",
        "By how much a part broke its promise to say something; 0 while it keeps it.",
        "part",
        parts.freshness.lateness(),
    )
    yield counters(
        "lucid_task_faults",
        "Faults of the agent itself that a task survived.",
        ("task",),
        {(task,): 0 for task in _TASKS} | parts.faults.counts,
    )


def _attestation(parts: Scraped) -> Iterator[Family]:
    renewal, attester, issued = parts.renewal, parts.attester, parts.renewal.current
    yield gauge("lucid_passport_valid", "1 while the passport has not ended.", renewal.valid)
    if issued is not None:
        now, wall = parts.clock(), wall_ns() / 1e9
        yield gauge(
            "lucid_passport_age_seconds",
            "Time since the passport was issued.",
            (now - issued.issued_ns) / 1e9,
        )
        yield gauge(
            "lucid_passport_time_left_seconds",
            "Time until the passport ends; negative when it has.",
            issued.seconds_left(now),
        )
        yield gauge(
            "lucid_collateral_age_seconds",
            "Time since all that vouches for the platform has been valid.",
            wall - issued.collateral_begins.timestamp(),
        )
        yield gauge(
            "lucid_collateral_time_left_seconds",
            "Time until something that vouches for the platform ends.",
            issued.collateral_ends.timestamp() - wall,
        )
        yield gauge(
            "lucid_revocation_checked",
            "1 if a fresh list of the vendor's was looked into for who certified this platform.",
            issued.revocation.status is CheckStatus.PASSED,
        )
        if issued.list_window is not None:
            yield gauge(
                "lucid_revocation_list_age_seconds",
                "Time since AMD issued the revocation list that was checked.",
                wall - issued.list_window[0].timestamp(),
            )
            yield gauge(
                "lucid_revocation_list_time_left_seconds",
                "Time until that list ends.",
                issued.list_window[1].timestamp() - wall,
            )
        yield gauge(
            "lucid_hardware_attested",
            "1 if the agent's own check of its passport found genuine hardware.",
            issued.platform.hardware_attested,
        )
        yield info(
            "lucid_tee_info",
            "The TEE that the passport is of.",
            {
                "tee": issued.platform.tee_type,
                "simulated": str(issued.platform.simulated).lower(),
                "tcb_status": issued.platform.tcb_status,
            },
        )
    yield gauge(
        "lucid_passport_next_try_seconds",
        "Time until the next quote is asked for; 0 while one is.",
        renewal.next_seconds,
    )
    yield gauge(
        "lucid_reboot_needed",
        "1 if no quote comes until this guest is rebooted.",
        attester.quotes.dead is not None,
    )
    yield counter("lucid_passport_renewals", "Passports issued.", renewal.renewals)
    yield counters(
        "lucid_passport_failures",
        "Tries that gave no passport, by the error's code.",
        ("code",),
        renewal.failures,
    )
    yield histogram(
        "lucid_quote_duration_seconds",
        "How long the platform took for a quote, tries that it refused included.",
        attester.quote_seconds,
    )
    yield counters(
        "lucid_quote_errors",
        "Transactions with the platform that failed, those tried again included.",
        ("code", "errno"),
        attester.quotes.failures,
    )
    yield gauge(
        "lucid_quote_waiting_seconds",
        "How long the platform has had a request of ours; 0 where it has none.",
        attester.quotes.waiting_seconds,
    )
    yield counters(
        "lucid_challenges",
        "Fresh passports over somebody's nonce that the local API was asked for.",
        ("outcome",),
        parts.quote_line.outcomes,
    )
    yield gauge(
        "lucid_challenges_waiting", "Challenges that wait for a quote.", parts.quote_line.waiting
    )
    yield histogram(
        "lucid_endorsement_duration_seconds",
        "How long it took to complete what the host supplied, the vendor's service included.",
        attester.complete_seconds,
    )


def _decisions(parts: Scraped) -> Iterator[Family]:
    doors = parts.gateway_metrics
    yield counters(
        "lucid_decisions",
        "Decisions by phase and outcome.",
        ("phase", "outcome"),
        doors.decisions,
    )
    yield counters(
        "lucid_claims_missing",
        "Denials because no source gave a claim that a policy reads.",
        ("claim",),
        parts.policies.claims_missing,
    )
    hits, misses = parts.policies.cache_counts()
    yield counter("lucid_policy_cache_hits", "Answers of the engine from its cache.", hits)
    yield counter("lucid_policy_cache_misses", "Answers that Cedar was asked for.", misses)
    yield counter("lucid_policy_reload_failures", "Refused bundles.", parts.policies.failures)
    yield counter(
        "lucid_policy_superseded",
        "Bundles that a newer one replaced before they came into force.",
        parts.policies.superseded,
    )
    yield counter(
        "lucid_policy_shadow_failures",
        "Shadow bundles on disk that could not be used.",
        parts.policies.candidate.failures,
    )
    if parts.snapshot is not None:
        bundle = parts.snapshot.bundle
        yield info(
            "lucid_policy_info",
            "The bundle in force.",
            {"name": bundle.name, "version": bundle.version, "digest": bundle.digest.hex()},
        )
    yield counter("lucid_gateway_requests", "Requests understood.", doors.requests)
    yield counters(
        "lucid_gateway_refusals",
        "Requests that the gateway refused without a decision.",
        ("code",),
        doors.refusals,
    )
    yield counters(
        "lucid_upstream_errors", "Failures of the model server.", ("code",), doors.upstream_errors
    )
    yield counter(
        "lucid_upstream_connections", "Connections made to it.", doors.upstream_connections
    )
    yield gauge("lucid_gateway_connections_open", "Open client connections.", doors.connections)
    yield counter("lucid_gateway_connections", "Client connections.", doors.accepted)
    yield counter("lucid_gateway_streams", "Replies that were event streams.", doors.streams)
    yield counter(
        "lucid_gateway_clients_gone", "Exchanges whose client went away.", doors.client_gone
    )
    yield counter(
        "lucid_gateway_internal_errors", "Exchanges ended by a fault.", doors.internal_errors
    )
    yield counter("lucid_gateway_request_bytes", "Bytes of request bodies.", doors.request_bytes)
    yield counter("lucid_gateway_reply_bytes", "Bytes sent to clients.", doors.reply_bytes)
    yield gauge("lucid_gateway_buffered_bytes", "Bodies in memory.", doors.buffered_bytes)


def _journal(parts: Scraped) -> Iterator[Family]:
    journal = parts.journal
    yield gauge("lucid_journal_healthy", "1 if decisions can be recorded.", journal.healthy)
    yield counter("lucid_journal_records", "Decisions of this boot.", journal.last_seq)
    waiting = journal.last_seq - journal.durable_seq
    yield gauge("lucid_journal_waiting_records", "Decisions not yet durable.", waiting)
    yield counter("lucid_journal_commits", "Transactions made durable.", journal.commits)
    yield histogram(
        "lucid_journal_commit_duration_seconds",
        "How long a transaction took, waiting for the disk included.",
        journal.commit_seconds,
    )
    unsigned = journal.durable_seq - journal.checkpoint_seq
    yield gauge("lucid_journal_unsigned_records", "Decisions after the last checkpoint.", unsigned)
    size = 0
    for name in (journal.path.name, f"{journal.path.name}-wal"):
        try:
            size += journal.path.with_name(name).stat().st_size
        except OSError:
            continue  # the disk is in trouble, or there is no WAL now: the rest is still true
    yield gauge("lucid_journal_size_bytes", "The journal's files.", size)
    yield gauge("lucid_journal_limit_bytes", "[journal] max_bytes.", parts.config.journal.max_bytes)
    try:
        disk = os.statvfs(journal.path.parent)
    except OSError:
        return
    yield gauge(
        "lucid_state_disk_free_bytes",
        "Free for the agent on the disk of its state directory.",
        disk.f_bavail * disk.f_frsize,
    )


def _stream(parts: Scraped) -> Iterator[Family]:
    stream = parts.stream_status
    if stream is None:
        return
    yield gauge("lucid_stream_connected", "1 while the Observer accepts.", stream.connected)
    yield gauge("lucid_stream_lag_records", "Durable and not acknowledged.", stream.lag)
    yield counter("lucid_stream_acks", "Acknowledgements whose head was ours.", stream.acks)
    yield counter("lucid_stream_acked_records", "Decisions acknowledged.", stream.acked_seq)
    yield counter("lucid_stream_connections", "Streams that were accepted.", stream.streams)
    yield counter("lucid_stream_alarms", "Forks and refusals by the Observer.", stream.alarms)


def _drops(parts: Scraped) -> Iterator[Family]:
    dropped: dict[tuple[str, ...], int] = {
        ("journal",): parts.journal.unrecorded,
        ("log",): logs.OUTPUT.dropped,
        ("notify",): parts.notifier.dropped,
    }
    yield counters(
        "lucid_drops",
        "What was lost, at every place that could lose something.",
        ("place",),
        dropped,
    )


def _process(parts: Scraped) -> Iterator[Family]:
    yield histogram(
        "lucid_event_loop_lag_seconds",
        "How late the event loop came back to a task that was due.",
        parts.pulse.loop_lag,
    )
    if parts.custody is not None:
        locked, dumps = parts.custody.locked, parts.custody.core_dumps
        yield gauge("lucid_memory_locked", "1 if memory is never swapped out.", locked)
        yield gauge("lucid_core_dumps_possible", "1 if a crash may write memory to disk.", dumps)
    try:
        process = Process.look()
    except OSError:
        return  # a system without /proc
    yield gauge("process_resident_memory_bytes", "Memory in use.", process.resident)
    yield gauge("process_virtual_memory_bytes", "Address space.", process.virtual)
    yield counter("process_cpu_seconds", "CPU time.", process.cpu_seconds)
    yield gauge("process_threads", "Threads.", process.threads)
    yield gauge("process_open_fds", "Open descriptors.", process.open_fds)
    yield gauge("process_max_fds", "The limit of descriptors.", process.max_fds)
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + process.started
    yield gauge("process_start_time_seconds", "Start, in seconds since 1970.", started)
