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
