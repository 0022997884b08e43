"""The live page in a real browser: what people see, and what attackers' text cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from observer.app import Running
from tests.observer.browser import Browser, browser, executable
from tests.observer.conftest import Serve
from tests.observer.fake_agent import FakeBoot, FakeStream, connect
from tests.observer.fake_trust import FakeTrust

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium on this machine")

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ROWS = "document.querySelectorAll('#rows tr').length"
FIRST = "document.querySelector('#rows tr')"
NEW = "document.getElementById('new')"

Do = Callable[..., Coroutine[Any, Any, Any]]
Visit = Callable[[Running, Browser, FakeStream, Do], Coroutine[Any, Any, None]]


@pytest.fixture
def visit(pages: Serve, boot: FakeBoot, tmp_path: Path) -> Callable[[Visit], None]:
    """Runs a scenario with an agent connected and the page open at `/`."""

    def run(scenario: Visit) -> None:
        async def main() -> None:
            async with pages() as running, connect(running.grpc) as stream:
                await stream.open(boot)
                await stream.acked(boot.batch(1))
                with browser(tmp_path) as page:
                    await asyncio.to_thread(page.open, f"http://{running.http}/")
                    await asyncio.to_thread(page.until, "document.title === 'Lucid Observer'")
                    await scenario(running, page, stream, asyncio.to_thread)
                    assert page.problems == []
                    assert await asyncio.to_thread(page.run, "document.title") != "owned"

        asyncio.run(main())

    return run


def test_decisions_appear_by_themselves_and_can_be_held_back(
    visit: Callable[[Visit], None], boot: FakeBoot
) -> None:
    async def scenario(_running: Running, page: Browser, stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{ROWS} === 10")
        boot.decide(2, outcome="deny", reasons=("no-secrets",))
        await stream.acked(boot.batch(11, 12))
        await do(page.until, f"{ROWS} === 12 && {FIRST}.innerText.includes('no-secrets')")
        await do(page.run, "document.getElementById('pause').click()")
        boot.decide(3)
        await stream.acked(boot.batch(13, 15))
        await do(page.until, f"!{NEW}.hidden && {NEW}.innerText.includes('3 new')")
        assert await do(page.run, ROWS) == 12
        await do(page.run, f"{NEW}.click()")
        await do(page.until, f"{ROWS} === 15 && {NEW}.hidden")

    visit(scenario)


def test_filters_are_in_the_address_and_back_works(
    visit: Callable[[Visit], None], boot: FakeBoot
) -> None:
    boot.decide(2, outcome="deny", reasons=("no-secrets",))

    async def scenario(_running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{ROWS} === 12")
        await do(page.run, "document.querySelector('[data-filter=reason]').click()")
        await do(page.until, f"{ROWS} === 2")
        assert await do(page.run, "location.search") == "?reason=no-secrets"
        assert (
            await do(page.run, "document.getElementById('export').getAttribute('href')")
            == "/api/export?reason=no-secrets"
        )
        await do(page.run, "history.back()")
        await do(page.until, f"{ROWS} === 12")
        await do(page.run, "history.forward()")
        await do(page.until, f"{ROWS} === 2")
        await do(page.run, "document.getElementById('clear').click()")
        await do(page.until, f"{ROWS} === 12 && location.search === ''")

    visit(scenario)


def test_a_row_opens_its_details_and_agents_show_their_state(
    visit: Callable[[Visit], None], boot: FakeBoot
) -> None:
    async def scenario(_running: Running, page: Browser, stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{ROWS} === 10")
        card = "(document.querySelector('.card')?.innerText ?? '')"
        await do(page.until, f"{card}.includes('agent-1')")
        text = (await do(page.run, card)).lower()
        for words in ("simulated tee", "simulated", "hardware attested", "no", "seq 10"):
            assert words in text
        await do(page.run, f"{FIRST}.querySelector('.open').click()")
        details = "document.getElementById('details')"
        await do(page.until, f"!{details}.hidden")
        text = await do(page.run, f"{details}.innerText")
        for words in (boot.heads[10].hex(), boot.heads[9].hex(), "pii_found", "41 µs"):
            assert words in text
        await do(page.run, "history.back()")
        await do(page.until, f"{details}.hidden")
        await stream.refused(boot.checkpoint(5, head=bytes(32)))
        await do(page.until, "!document.getElementById('alarms').hidden")
        await do(page.until, f"{card}.includes('signed head')")

    visit(scenario)


STRIP = "document.getElementById('alarms')"


def test_a_fork_of_an_earlier_boot_is_loud_and_the_agent_goes_on(
    visit: Callable[[Visit], None], boot: FakeBoot, trust: FakeTrust
) -> None:
    living = FakeBoot()
    trust.believe(living)
    living.decide(2)
    other = FakeBoot(key=boot.key, seed=boot.seed, passport=boot.passport)
    other.append(boot.records[0])
    other.decide(4, model="another")

    async def scenario(running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        async with connect(running.grpc) as stream:
            await stream.open(living, boot, epoch=2)
            assert (await stream.ask(other.batch(2))).nack.boot_only
            await stream.acked(living.batch(1))
            await do(page.until, f"{STRIP}.classList.contains('proof')")
            short = boot.boot_id.hex()[:12]
            text = await do(page.run, f"{STRIP}.innerText")
            assert f"two histories of boot {short}… at seq 2" in text
            await do(page.until, f"{ROWS} === 12")
            card = await do(page.run, "document.querySelector('.card').innerText")
            assert "that boot is set aside and the agent goes on" in card
            evidence = f"{STRIP}.querySelector('a').getAttribute('href')"
            assert await do(page.run, evidence) == "/api/alarms/1"

    visit(scenario)


def test_what_no_hardware_attests_is_marked_in_every_row_and_in_the_details(
    visit: Callable[[Visit], None], boot: FakeBoot, trust: FakeTrust
) -> None:
    real = FakeBoot(agent_id="real")
    genuine = {"tee": "sev-snp", "tee_display": "AMD SEV-SNP", "simulated": False}
    trust.believe(real, **genuine, hardware_attested=True)
    real.decide(3)
    marked = "document.querySelectorAll('#rows .simulated').length"

    async def scenario(running: Running, page: Browser, stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{marked} === 10")
        boot.decide(1)
        await stream.acked(boot.batch(11))
        await do(page.until, f"{ROWS} === 11 && {marked} === 11")
        async with connect(running.grpc) as other:
            await other.open(real)
            await other.acked(real.batch(1))
            await do(page.until, f"{ROWS} === 14")
            await do(page.until, "document.querySelectorAll('.card').length === 2")
            assert await do(page.run, marked) == 11
        details = "document.getElementById('details')"
        await do(page.run, "document.querySelector('#rows tr:last-child .open').click()")
        await do(page.until, f"!{details}.hidden && {details}.querySelector('.lead .simulated')")
        answers = f"{details}.querySelector('.answers').innerText"
        assert "Chain and TCB: passed\nnot checked: no list" in await do(page.run, answers)

    visit(scenario)


def test_a_card_that_is_drawn_again_keeps_focus_and_selection(
    visit: Callable[[Visit], None], boot: FakeBoot
) -> None:
    summary, mark = "document.querySelector('.card summary')", "data-drawn-before"

    async def scenario(running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        again = f"document.querySelector('.card') && !document.querySelector('.card[{mark}]')"
        await do(page.until, again)
        mark_it = f"document.querySelector('.card').setAttribute('{mark}', '')"
        await do(page.run, f"{mark_it}; {summary}.focus()")
        running.hub.agents_changed()
        await do(page.until, f"{again} && document.activeElement === {summary}")
        await do(page.run, f"{mark_it}; getSelection().selectAllChildren({summary})")
        running.hub.agents_changed()
        before = await do(page.run, "performance.now()")
        await do(page.until, f"performance.now() > {before} + 3000")
        assert await do(page.run, "String(getSelection())") == "Evidence and boots"
        await do(page.run, "getSelection().removeAllRanges()")
        await do(page.until, again)

    visit(scenario)


def test_a_decision_is_reached_read_and_left_by_the_keyboard_alone(
    visit: Callable[[Visit], None],
) -> None:
    focused, details = "document.activeElement", "document.getElementById('details')"

    async def scenario(_running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{ROWS} === 10 && document.querySelector('.card')")
        await do(page.press, "Tab")
        assert await do(page.run, f"{focused}.className") == "skip"
        assert await do(page.run, f"{focused}.getBoundingClientRect().left >= 0")
        await do(page.press, "Enter")
        for _ in range(20):
            await do(page.press, "Tab")
            ring = f"getComputedStyle({focused}).outlineStyle"
            assert await do(page.run, ring) != "none", "where the focus is can be seen"
            if await do(page.run, f"{focused}.className") == "open":
                break
        await do(page.run, "window.was = document.activeElement")
        await do(page.press, "Enter")
        await do(page.until, f"!{details}.hidden && {focused}.id === 'details-title'")
        await do(page.press, "Escape")
        await do(page.until, f"{details}.hidden && {focused} === window.was")

    visit(scenario)


def test_a_passport_that_ended_says_nothing_about_now(
    visit: Callable[[Visit], None], trust: FakeTrust
) -> None:
    gone = FakeBoot(agent_id="gone")
    genuine = {"tee": "tdx", "tee_display": "Intel TDX", "simulated": False}
    trust.believe(gone, **genuine, hardware_attested=True, expires_at=1_790_000_000)

    async def scenario(running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        async with connect(running.grpc) as stream:
            await stream.open(gone)
            await do(page.until, "document.body.innerText.includes('yes, until it expired')")
        assert await do(page.run, "document.querySelectorAll('.card .badge.good').length") == 0

    visit(scenario)


def test_many_agents_leave_room_for_the_decisions(
    visit: Callable[[Visit], None], trust: FakeTrust
) -> None:
    cards, button = (
        "document.querySelectorAll('.card').length",
        "document.getElementById('agents-all')",
    )

    async def scenario(running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        for number in range(14):
            other = FakeBoot(agent_id=f"agent-{number:02}")
            trust.believe(other)
            other.decide(1)
            async with connect(running.grpc) as stream:
                await stream.open(other)
                await stream.acked(other.batch(1))
        count = "document.getElementById('agents-count').innerText"
        await do(page.until, f"{cards} === 12 && {count} === '15 · 14 not connected'")
        await do(page.until, f"{button}.innerText === 'Show all 15 agents'")
        await do(page.run, f"{button}.click()")
        await do(page.until, f"{cards} === 15")

    visit(scenario)


def test_all_of_a_decision_is_in_the_window_however_narrow(
    visit: Callable[[Visit], None], boot: FakeBoot
) -> None:
    boot.decide(
        outcome="deny",
        reasons=("claim_missing:injection_risk", "no-secrets"),
        model="a-model/with-a-name-that-is-longer-than-the-window-is-wide-2026-11",
        principal=("Agent", "spiffe://example.org/ns/production/sa/chat-of-the-web-shop"),
    )
    html = "document.documentElement"
    outside = (
        "[...document.querySelectorAll('#rows td, #rows button')]"
        f".filter(e => e.getBoundingClientRect().right > {html}.clientWidth).length"
    )

    async def scenario(_running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{ROWS} === 11 && {FIRST}.innerText.includes('no-secrets')")
        for width in (320, 400, 880, 881, 1060, 1280, 1501):
            await do(page.resize, width, 800)
            await do(page.until, f"innerWidth === {width} && {outside} === 0")
            assert not await do(page.run, f"{html}.scrollWidth > {html}.clientWidth")

    visit(scenario)


def test_what_attackers_wrote_stays_text(
    visit: Callable[[Visit], None], boot: FakeBoot, trust: FakeTrust
) -> None:
    boot.decide(
        1,
        model=EVIL,
        principal=("User", EVIL),
        reasons=(EVIL, "reversed \u202etxt"),
        claims={EVIL: EVIL, "list": (EVIL,)},
        auditors={EVIL: EVIL},
        decision_id=EVIL,
        route=EVIL,
    )

    async def scenario(_running: Running, page: Browser, _stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{ROWS} === 11")
        before = await do(page.run, "document.querySelectorAll('img, script').length")
        text = await do(page.run, f"{FIRST}.innerText")
        assert EVIL in text
        assert "\u202e" not in text
        await do(page.run, f"{FIRST}.querySelector('.open').click()")
        await do(page.until, "document.getElementById('details').innerText.includes('Claims')")
        assert EVIL in await do(page.run, "document.getElementById('details').innerText")
        await do(page.run, f"{FIRST}.querySelector('[data-filter=model]').click()")
        await do(page.until, f"{ROWS} === 1")
        assert await do(page.run, "document.querySelectorAll('img, script').length") == before

    visit(scenario)


def test_many_rows_stay_within_the_page(visit: Callable[[Visit], None], boot: FakeBoot) -> None:
    async def scenario(_running: Running, page: Browser, stream: FakeStream, do: Do) -> None:
        await do(page.until, f"{ROWS} === 10")
        boot.decide(1024)
        await stream.acked(boot.batch(11, 1034))
        await do(page.until, f"{ROWS} === 500")
        older = "document.getElementById('older')"
        await do(page.run, f"{older}.click()")
        await do(page.until, f"!{older}.disabled && !{NEW}.hidden")
        assert await do(page.run, ROWS) == 500
        ids = await do(
            page.run, "[...document.querySelectorAll('#rows tr')].map(r => +r.dataset.id)"
        )
        assert ids == sorted(ids, reverse=True)
        assert len(set(ids)) == 500
        assert ids[0] == ids[-1] + 499
        await do(page.run, f"{NEW}.click()")
        await do(page.until, f"{FIRST}.dataset.id === '1034'")

    visit(scenario)


def test_an_observer_without_decisions_says_what_to_do(pages: Serve, tmp_path: Path) -> None:
    async def main() -> None:
        async with pages() as running:
            with browser(tmp_path) as page:
                await asyncio.to_thread(page.open, f"http://{running.http}/")
                empty = "(document.getElementById('empty')?.innerText ?? '')"
                await asyncio.to_thread(page.until, f"{empty}.includes('No decisions yet')")
                assert str(running.grpc) in await asyncio.to_thread(page.run, empty)
                await asyncio.to_thread(page.open, f"http://{running.http}/?outcome=deny")
                await asyncio.to_thread(page.until, f"{empty}.includes('Nothing matches')")
                assert page.problems == []

    asyncio.run(main())
