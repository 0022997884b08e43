"""Every row of the table "When what fails" (docs/lifecycle.md) has tests that name it.

`ROWS` maps the rows to tests; the last test here holds the map against the document and against
the tests there are. What no other module shows stands here, on the real daemon.
"""

from __future__ import annotations

import importlib
import json
import re
import resource
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest
import trio
from click.testing import CliRunner

from agent.api.local_api import Request
from agent.api.policy_api import PolicyApi
from agent.cli import main
from agent.errors import EXIT_CODES
from agent.life.lifecycle import State
from attestation import cbor
from attestation.errors import AttestationError, QuoteError, UncheckableError
from attestation.evidence import Completed, Format
from tests.agent.daemons import Inside, daemon_inside
from tests.pki import client_context, make
from tests.processes import BUNDLE, AgentProcess, wait_until

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"

ROWS: Final[dict[str, tuple[str, ...]]] = {
    "no TEE, or another one than configured": (
        "tests.end_to_end.test_bad_input:test_no_tee_says_what_was_looked_for_and_how_to_simulate",
        "tests.agent.attesting.test_platform:test_another_tee_than_the_one_asked_for_ends_the_start",
        "tests.agent.attesting.test_renewal:test_at_the_first_start_a_final_failure_ends_the_daemon",
        "tests.agent.attesting.test_renewal:test_later_even_a_final_failure_only_degrades",
    ),
    "the guest's key for the firmware is dead (SEV-SNP, ENOTTY)": (
        "tests.agent.test_failure_table:test_a_dead_key_is_said_everywhere_and_asked_no_more",
        "tests.agent.attesting.test_renewal:test_a_dead_key_is_asked_no_more_and_the_passport_serves_until_its_end",
        "tests.agent.attesting.test_renewal:test_a_dead_key_at_the_first_start_ends_the_daemon_and_asks_for_a_reboot",
        "tests.agent.life.test_soak_virtual:test_a_key_that_dies_ends_in_refusal_and_stays_visible",
    ),
    "the platform is genuine and does not meet `[tee] hardware_policy` (docs/checks.md)": (
        "tests.agent.attesting.test_hardware_policy:test_one_that_does_not_meet_it_gets_no_passport_and_serves_nobody",
    ),
    "a quote is empty, busy or times out": (
        "tests.agent.test_failure_table:test_quotes_that_fail_at_the_start_are_waited_for",
        "tests.agent.test_failure_table:test_quotes_that_fail_later_degrade_then_expire_then_serve",
        "tests.agent.attesting.test_renewal:test_retries_back_off_and_then_succeed",
        "tests.agent.attesting.test_renewal:test_tries_become_denser_towards_the_end",
        "tests.agent.quotes.test_quoting:test_a_host_that_does_not_answer_costs_a_deadline_and_one_thread",
    ),
    "the local API is flooded with challenges (`POST /v1/passport`)": (
        "tests.agent.quotes.test_line:test_a_renewal_keeps_its_time_with_a_thousand_challenges_waiting",
        "tests.agent.quotes.test_line:test_a_flood_on_the_local_api_is_refused_at_once_and_told_when_to_come_again",
    ),
    "the vendor's service (KDS, PCS) is down, slow, or lies": (
        "tests.agent.test_failure_table:test_a_vendor_that_is_down_slow_or_lies_degrades_and_recovers",
        "tests.agent.attesting.test_renewal:test_a_vendor_that_cannot_be_reached_at_the_first_start_is_waited_for",
    ),
    "collateral ends": (
        "tests.agent.test_failure_table:test_no_passport_outlives_what_vouches_for_the_platform",
        "tests.agent.attesting.test_renewal:test_a_passport_that_its_collateral_cuts_short_is_a_concern_and_renewed_the_sooner",
        "tests.agent.attesting.test_renewal:test_a_passport_that_is_over_when_it_is_issued_is_a_failure",
    ),
    "an auditor is down, slow or errs": (
        "tests.enforcement.auditors.test_over_sockets:test_an_auditor_that_fails_is_named_its_claims_are_missing_and_others_count",
        "tests.enforcement.auditors.test_over_sockets:test_an_auditor_that_is_down_fails_at_once",
        "tests.enforcement.auditors.test_over_sockets:test_who_fails_again_and_again_is_left_alone_and_tried_again",
    ),
    "the policy bundle is broken on reload": (
        "tests.agent.test_failure_table:test_a_bundle_that_is_broken_on_reload_degrades_until_it_is_mended",
        "tests.end_to_end.test_bad_input:test_a_broken_bundle_on_reload_changes_nothing",
    ),
    "the TLS files cannot be used at a start, or the certificate has ended": (
        "tests.agent.gateway.test_tls_files:test_an_agent_does_not_start_with_files_that_cannot_be_used",
    ),
    "new TLS files are broken, or do not come": (
        "tests.agent.test_failure_table:test_tls_files_that_are_broken_degrade_until_good_ones_come",
        "tests.agent.gateway.test_tls_files:test_an_end_that_comes_near_is_said_and_one_that_has_come",
        "tests.enforcement.gateway.test_tls_door:test_a_connection_is_asked_to_leave_before_its_certificate_ends",
    ),
    "the disk is full or fails": (
        "tests.agent.test_failure_table:test_a_disk_that_takes_nothing_blocks_and_recovers_by_itself",
    ),
    "the disk is full at a start": (
        "tests.agent.test_setup:test_a_full_disk_may_pass_and_another_one_does_not",
        "tests.agent.journal.test_journal:test_a_disk_that_is_full_at_a_start_is_no_damage",
    ),
    "the journal's file is removed or exchanged while it is in use": (
        "tests.end_to_end.test_adversity:test_a_journal_that_was_taken_away_refuses_until_it_is_back",
    ),
    "no descriptor is left (`LimitNOFILE=`)": (
        "tests.end_to_end.test_adversity:test_without_descriptors_nobody_spins_or_dies_and_it_is_said_once",
        "tests.agent.test_setup:test_the_limit_of_open_files_is_raised_and_said_where_it_is_too_low",
    ),
    "another agent has the state directory": (
        "tests.end_to_end.test_adversity:test_the_second_agent_on_a_state_directory_is_refused_and_disturbs_nothing",
        "tests.agent.test_claim:test_whoever_comes_second_is_told_who_has_it",
    ),
    "the Observer is away": (
        "tests.end_to_end.test_bad_input:test_an_observer_that_is_down_closes_nothing_and_gets_all_later",
        "tests.agent.stream.test_stream:test_an_observer_that_stays_away_is_a_concern_and_one_that_restarts_is_none",
        "tests.crash.test_nothing_is_lost:test_an_observer_that_is_away_under_load_gets_everything_when_it_returns",
    ),
    "the files of `[observer]` cannot be used at a start": (
        "tests.agent.commands.test_check_config:test_a_file_that_cannot_be_used_stops_the_start_and_is_named",
    ),
    "the Observer refuses an earlier boot (a fork, damage) or does not accept it": (
        "tests.agent.stream.test_session:test_an_earlier_boot_that_is_not_taken_keeps_nothing_up",
        "tests.end_to_end.test_set_aside:test_a_disputed_old_boot_does_not_keep_the_living_one_from_being_heard",
    ),
    "the stream's task has a fault of its own": (
        "tests.agent.stream.test_stream:test_no_fault_of_the_stream_ends_the_daemon",
    ),
    "the model server is down": (
        "tests.end_to_end.test_bad_input:test_a_model_server_that_is_down_is_a_502_on_record",
        "tests.enforcement.gateway.test_upstream:test_an_upstream_that_is_down_is_502_and_recorded",
    ),
    "the passport ends": (
        "tests.agent.test_failure_table:test_quotes_that_fail_later_degrade_then_expire_then_serve",
        "tests.agent.life.test_lifecycle:test_a_passport_ends_when_it_ends_not_when_it_is_noticed",
    ),
    "the clock jumps, or the machine was suspended": (
        "tests.agent.life.test_pulse:test_a_clock_that_jumps_renews_at_once",
        "tests.agent.life.test_pulse:test_an_ordinary_clock_is_no_jump",
    ),
    "SIGTERM, SIGINT": (
        "tests.crash.test_nothing_is_lost:test_a_clean_stop_delivers_everything_before_the_process_ends",
        "tests.enforcement.gateway.test_drain:test_an_open_exchange_is_finished_and_its_reply_says_close",
        "tests.agent.test_failure_table:test_a_stop_is_said_and_ends_with_code_0",
        "tests.end_to_end.test_stop:test_with_nothing_left_to_deliver_a_stop_waits_for_no_observer",
        "tests.end_to_end.test_stop:test_what_is_left_is_tried_for_half_of_the_time_said_and_delivered_by_the_next_start",
    ),
    "SIGTERM before everything has begun": (
        "tests.end_to_end.test_signals:test_a_stop_at_any_moment_of_a_start_leaves_what_the_next_start_can_use",
        "tests.end_to_end.test_signals:test_a_stop_while_it_waits_for_an_auditor_closes_what_had_begun",
    ),
    "SIGTERM again, SIGHUP during a stop": (
        "tests.end_to_end.test_signals:test_a_stop_that_comes_again_and_again_takes_its_course",
        "tests.end_to_end.test_signals:test_a_storm_of_reloads_disturbs_nobody_and_a_stop_does_not_wait_for_it",
    ),
    "a start takes long (a journal of millions of decisions to check)": (
        "tests.agent.life.test_pulse:test_what_the_service_manager_is_told",
        "tests.agent.life.test_pulse:test_a_start_that_hangs_is_not_given_more_time",
    ),
}


def said_alike(inside: Inside, state: State, words: str) -> None:
    """The same state, reason and next step wherever an operator looks."""
    code, ready = inside.api("/readyz")
    _, status = inside.api("/v1/status")
    _, metrics = inside.api("/metrics")
    assert ready["ready"] == (code == 200) == status["ready"]
    assert status["state"] == state.value
    assert words in status["reason"]
    assert ready["reason"] == status["ready_reason"] == f"{state}: {status['reason']}"
    assert status["next"]
    assert status["since"].endswith("Z")
    assert status["since_seconds"] >= 0
    active = re.findall(r'lucid_state\{state="(\w+)"\} 1\.0', metrics)
    assert active == [state.value]
    assert f"lucid_ready {float(ready['ready'])}" in metrics


# -- quotes --------------------------------------------------------------------------------------


async def test_quotes_that_fail_at_the_start_are_waited_for(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [3]

    def spoil() -> None:
        if left[0]:
            left[0] -= 1
            raise QuoteError("quote.busy", "the platform gave no quote", errno=16)

    async with daemon_inside(tmp_path, simulated_state, monkeypatch, spoil=spoil) as inside:
        await inside.until(lambda: ("quote.busy",) in inside.daemon.parts.renewal.failures)
        said_alike(inside, State.ATTESTING, "quote.busy")
        assert await inside.chat() == (503, "not_ready")
        assert "READY=1" not in inside.notified()
        await inside.until(lambda: inside.daemon.parts.renewal.valid)
        said_alike(inside, State.SERVING, "is valid")
        lines = inside.notified()
        assert "READY=1" in lines
        assert any(line.startswith("STATUS=serving since ") for line in lines)


async def test_quotes_that_fail_later_degrade_then_expire_then_serve(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [False]

    def spoil() -> None:
        if broken[0]:
            raise QuoteError("quote.empty", "the quote is empty")

    async with daemon_inside(tmp_path, simulated_state, monkeypatch, spoil=spoil) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        assert (await inside.chat())[0] == 502, "decided; there is no model server"
        broken[0] = True
        daemon.parts.renewal.renew_now("test")
        await inside.until(lambda: daemon.parts.lifecycle.look().state is State.DEGRADED)
        said_alike(inside, State.DEGRADED, "quote.empty")
        assert (await inside.chat())[0] == 502
        # The passport's end comes: time cannot be moved, so the end is.
        daemon.parts.lifecycle.issued("pass-ended", daemon.parts.clock())
        said_alike(inside, State.EXPIRED, "passport pass-ended has ended")
        assert await inside.chat() == (503, "attestation_expired")
        broken[0] = False
        await inside.until(lambda: daemon.parts.lifecycle.look().state is State.SERVING)
        assert (await inside.chat())[0] == 502
        await inside.until(lambda: any("STATUS=serving" in line for line in inside.notified()))


async def test_a_dead_key_is_said_everywhere_and_asked_no_more(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    dead, asked = [False], [0]

    def spoil() -> None:
        asked[0] += 1
        if dead[0]:
            remedy = "reboot this guest; nothing else helps"
            raise QuoteError(
                "quote.key_disabled", "the key is disabled", remedy=remedy, final=True, errno=25
            )

    async with daemon_inside(
        tmp_path, simulated_state, monkeypatch, spoil=spoil, bundle=bundle
    ) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        assert "lucid_reboot_needed 0.0" in inside.api("/metrics")[1]
        dead[0] = True
        asked_before = asked[0]
        status, answer = await inside.challenge()
        assert status == 503
        assert "reboot" in answer["error"]["message"]
        said_alike(inside, State.DEGRADED, "the key is disabled [quote.key_disabled]")
        assert (await inside.chat())[0] == 502, "decided until the passport ends"
        # Nothing brings another transaction: a wish, a challenge, the passport's end, a restart of
        # the device.
        dead[0] = False
        daemon.parts.renewal.renew_now("test")
        assert (await inside.challenge())[0] == 503
        status, answer = inside.api("/v1/status")
        assert answer["next"].startswith("reboot this guest")
        assert answer["passport"]["next_try_seconds"] is None
        metrics = inside.api("/metrics")[1]
        assert "lucid_reboot_needed 1.0" in metrics
        assert "lucid_passport_next_try_seconds +Inf" in metrics
        # A new bundle cannot come into force, and that is said.
        (bundle / "policies" / "extra.cedar").write_text(
            '@id("extra")\nforbid (principal, action, resource) when { false };\n'
        )
        await daemon.parts.policies.reload()
        parts = {trouble["code"]: trouble for trouble in inside.api("/v1/status")[1]["troubles"]}
        assert "cannot come into force" in parts["policy.waits"]["reason"], parts
        assert "stop the agent" in parts["policy.waits"]["next"]
        policy = PolicyApi(daemon.parts, may_push=True)
        pushed = cbor.encode(daemon.parts.policies.newest.bundle.files)
        with trio.fail_after(10):  # it does not wait for a passport in vain
            answer = await policy(Request(method="POST", path="/v1/policy", body=pushed, uid=0))
        waits_for = json.loads(answer.body)["waits_for"]
        assert (answer.status, waits_for["reboot"]) == (202, True)
        assert waits_for["code"] == "quote.key_disabled"
        assert "the key is disabled" in waits_for["reason"]
        assert "reboot this guest" in waits_for["next"]
        assert "stop the agent" in waits_for["next"]
        daemon.parts.lifecycle.issued("pass-ended", daemon.parts.clock())
        said_alike(inside, State.EXPIRED, "the key is disabled [quote.key_disabled]")
        assert await inside.chat() == (503, "attestation_expired")
        await trio.sleep(0.5)  # many retries of the pace of tests
        assert asked[0] == asked_before + 1
        await inside.until(lambda: any("STATUS=expired" in line for line in inside.notified()))
        assert any("reboot this guest" in line for line in inside.notified())


# -- the vendor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["down", "slow", "lies", "nonsense"])
async def test_a_vendor_that_is_down_slow_or_lies_degrades_and_recovers(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def complete(kind: Format, quote: bytes, supplied: bytes) -> Completed:
        del kind, quote
        await trio.lowlevel.checkpoint()
        if way == "down":
            raise UncheckableError("kds.unavailable", "KDS gave nothing in 3 tries")
        if way == "slow":
            await trio.sleep_forever()
        if way == "lies":  # a certificate table with one bit that is not AMD's
            lies = supplied[:-200] + bytes([supplied[-200] ^ 1]) + supplied[-199:]
            return Completed(certificates=lies)
        return Completed(certificates=bytes(64))

    async with daemon_inside(tmp_path, simulated_state, monkeypatch) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        passport = daemon.parts.renewal.current
        daemon.parts.attester._patience = 1.0
        daemon.parts.attester.complete = complete
        daemon.parts.renewal.renew_now("test")
        await inside.until(lambda: daemon.parts.lifecycle.look().state is State.DEGRADED)
        said_alike(inside, State.DEGRADED, "no new passport")
        codes = {code for (code,) in daemon.parts.renewal.failures}
        assert (
            codes
            & {
                "down": {"kds.unavailable"},
                "slow": {"passport.timeout"},
                "lies": {c for c in codes if c.startswith("snp.")},
                "nonsense": {c for c in codes if c.startswith("snp.")},
            }[way]
        ), codes
        assert daemon.parts.renewal.current is passport, "the valid one stays"
        assert (await inside.chat())[0] == 502
        daemon.parts.attester.complete = None
        await inside.until(lambda: daemon.parts.lifecycle.look().state is State.SERVING)


async def test_no_passport_outlives_what_vouches_for_the_platform(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with daemon_inside(tmp_path, simulated_state, monkeypatch) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        issued = daemon.parts.renewal.current
        assert issued is not None
        ends = issued.collateral_ends
        for left in (200, 3, 0, -5):  # seconds before the certificates end, by the wall clock
            now = int((ends - timedelta(seconds=left)).timestamp() * 1e9)
            daemon.parts.attester._wall = lambda now=now: now  # type: ignore[misc]
            stated = daemon.parts.in_force.stated(daemon.parts.in_force.current().bundle)
            try:
                made = await daemon.parts.attester.issue(stated)
            except AttestationError:
                assert left <= 0, "only what is over is refused"
                continue
            assert left > 0
            assert made.cut_short
            assert made.seconds_left(daemon.parts.clock()) <= left
            claims = made.appraisal.passport.claims
            assert datetime.fromtimestamp(claims.expires_at, UTC) <= ends


# -- the bundle ----------------------------------------------------------------------------------


async def test_a_bundle_that_is_broken_on_reload_degrades_until_it_is_mended(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    async with daemon_inside(tmp_path, simulated_state, monkeypatch, bundle=bundle) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        (bundle / "policies" / "broken.cedar").write_text('@id("x")\npermit (principal,')
        await daemon.parts.policies.reload()
        said_alike(inside, State.DEGRADED, "policy: the bundle on disk was refused")
        assert "broken.cedar" in inside.api("/v1/status")[1]["reason"]
        assert (await inside.chat())[0] == 502
        (bundle / "policies" / "broken.cedar").unlink()
        await daemon.parts.policies.reload()
        said_alike(inside, State.SERVING, "is valid")


async def test_no_challenge_measures_the_bundle_before_the_newest_again(
    tmp_path: Path, simulated_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    broken = [False]

    def spoil() -> None:
        if broken[0]:
            raise QuoteError("quote.busy", "busy")

    async with daemon_inside(
        tmp_path, simulated_state, monkeypatch, spoil=spoil, bundle=bundle
    ) as inside:
        daemon = inside.daemon
        await inside.until(lambda: daemon.parts.renewal.valid)
        measured: list[bytes] = []
        daemon.parts.attester.measure = measured.append
        assert (await inside.challenge())[0] == 200
        before = measured[-1]
        broken[0] = True
        (bundle / "policies" / "extra.cedar").write_text(
            '@id("extra")\nforbid (principal, action, resource) when { false };\n'
        )
        await daemon.parts.policies.reload()
        await inside.until(lambda: measured[-1] != before)
        newest = len(measured) - 1
        for _ in range(3):
            status, answer = await inside.challenge()
            assert status == 503
            assert "not in force yet" in answer["error"]["message"]
        broken[0] = False
        await inside.until(lambda: daemon.parts.lifecycle.look().state is State.SERVING)
        assert (await inside.challenge())[0] == 200
        assert set(measured[newest:]) == {measured[newest]}


# -- the disk, on a real process -----------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path, simulated_state: Path) -> Iterator[AgentProcess]:
    shutil.copytree(simulated_state, tmp_path / "state", dirs_exist_ok=True)
    (tmp_path / "state").chmod(0o700)
    made = AgentProcess(tmp_path, "http://127.0.0.1:9")
    yield made
    if made.process is not None:
        made.stop(signal.SIGKILL)


def ask(agent: AgentProcess) -> tuple[int, str]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    reply = httpx.post(f"{agent.url}/v1/chat/completions", json=body, timeout=30)
    return reply.status_code, str(reply.json()["error"]["code"])


def test_a_disk_that_takes_nothing_blocks_and_recovers_by_itself(agent: AgentProcess) -> None:
    agent.start()
    assert ask(agent)[0] == 502
    assert agent.process is not None
    pid = agent.process.process.pid
    # No file may grow: what a full disk is to SQLite (EFBIG for ENOSPC), without filling one.
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        assert ask(agent) == (503, "journal_unavailable")
        status = agent.status()
        assert status["state"] == "blocked"
        assert "journal: the journal" in status["reason"]
        assert "tried again" in status["next"]
        assert agent.api("GET", "/readyz")[0] == 503
        assert agent.api("GET", "/healthz")[0] == 200
        metrics = agent.api("GET", "/metrics")[1].decode()
        assert 'lucid_state{state="blocked"} 1.0' in metrics
        assert 'lucid_trouble{part="journal"} 1.0' in metrics
        assert ask(agent) == (503, "journal_unavailable")
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    wait_until(lambda: agent.status()["ready"], 20, "the journal records again")
    assert ask(agent)[0] == 502
    assert agent.stop() == 0


def test_a_stop_is_said_and_ends_with_code_0(agent: AgentProcess) -> None:
    agent.start()
    process = agent.process
    assert process is not None
    assert agent.stop() == 0
    text = "\n".join(process.output)
    for state in ("attesting", "serving", "stopping"):
        assert re.search(rf"state\.changed .*state={state}\b", text), text
    assert "received SIGTERM" in text


def test_tls_files_that_are_broken_degrade_until_good_ones_come(
    agent: AgentProcess, tmp_path: Path
) -> None:
    first = make("gateway", hosts=("localhost",)).write(tmp_path, "gateway")
    agent.extra = '[gateway.tls]\ncertificate_file = "gateway.pem"\nkey_file = "gateway.key"\n'
    agent.start()
    assert agent.process is not None
    assert httpx.get(f"https://localhost:{agent.port}/.well-known/lucid/passport",
                     verify=client_context(tmp_path, first)).status_code == 200  # fmt: skip
    (tmp_path / "gateway.key").chmod(0o644)
    agent.process.process.send_signal(signal.SIGHUP)
    wait_until(lambda: agent.status()["state"] == "degraded", 20, "the files are refused")
    status = agent.status()
    assert "others may read or write the key" in status["troubles"][0]["reason"]
    assert status["ready"]
    second = make("gateway", hosts=("localhost",)).write(tmp_path, "gateway")
    (tmp_path / "gateway.key").chmod(0o600)
    wait_until(lambda: agent.status()["state"] == "serving", 20, "the new files are in use")
    reply = httpx.get(f"https://localhost:{agent.port}/.well-known/lucid/passport",
                      verify=client_context(tmp_path, second))  # fmt: skip
    assert reply.status_code == 200
    said = agent.process.tail()
    assert "tls.refused" in said
    assert "tls.loaded" in said
    assert "PRIVATE" not in said


# -- the map -------------------------------------------------------------------------------------


def documented_rows() -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8").partition("## When what fails")[2]
    table = text.partition("\n## ")[0].partition("\n\n")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_every_row_is_mapped_and_every_test_of_the_map_exists() -> None:
    assert list(ROWS) == documented_rows()
    for row, tests in ROWS.items():
        assert tests, row
        for test in tests:
            module, _, name = test.partition(":")
            assert callable(getattr(importlib.import_module(module), name, None)), (row, test)


def test_the_document_has_the_states_and_exit_codes_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    states = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    assert states == [state.value for state in State]
    codes = re.findall(r"^\| (\d) \| ([^|]+) \| (\w[\w ]*) \|$", text, re.MULTILINE)
    assert [(int(code), what, may == "yes") for code, what, may in codes] == [
        (code.value, what, restart) for code, (what, restart) in EXIT_CODES.items()
    ]


def test_the_help_and_the_unit_file_have_the_exit_codes_of_the_code() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    for code, (what, _) in EXIT_CODES.items():
        assert re.search(rf"^ +{code.value}  {re.escape(what)}", shown, re.MULTILINE), code
    unit = (DOCUMENT.parents[1] / "systemd" / "lucid-agent.service").read_text(encoding="utf-8")
    found = re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert found is not None
    final = [code.value for code, (_, restart) in EXIT_CODES.items() if code and not restart]
    assert [int(code) for code in found[1].split()] == final
