"""Passports from a URL, and files: who answers is hostile, what lies there is too large."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from lucid import sources
from lucid.sources import SourceError, read_file, read_source, read_text
from tests.lucid.hostile import hostile


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with hostile() as where:
        yield where


def test_what_is_there_is_read(url: str) -> None:
    assert read_source(f"{url}/plain") == b"passport"


def test_what_is_compressed_is_not_expanded(url: str) -> None:
    read_source(f"{url}/plain")
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="compressed"):
            read_source(f"{url}/bomb")
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_more_than_can_be_meant_is_not_read_to_its_end(url: str) -> None:
    with pytest.raises(SourceError, match="larger than"):
        read_source(f"{url}/endless")


def test_crumbs_end_with_the_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FETCH_SECONDS", 0.2)
    for path in ("crumbs", "head", "silent"):
        with pytest.raises(SourceError, match=r"no whole answer in 0\.2 s"):
            read_source(f"{url}/{path}")


def test_nobody_is_sent_elsewhere(url: str) -> None:
    with pytest.raises(SourceError, match="302"):
        read_source(f"{url}/redirect")


def test_a_file_is_bounded_and_what_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="larger than"):
        read_file("/dev/zero")
    with pytest.raises(SourceError, match="Is a directory"):
        read_file(tmp_path)
    with pytest.raises(SourceError, match="No such file"):
        read_file(tmp_path / "none")
    (tmp_path / "text").write_bytes(b"abc\xff")
    with pytest.raises(SourceError, match="not UTF-8 at byte 3"):
        read_text(tmp_path / "text")


def test_standard_input_that_is_closed_or_no_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SourceError, match="closed"):
        read_file("-")
