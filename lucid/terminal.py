"""Text from elsewhere, made fit to print: it must not drive the reader's terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line of at most 1,000 characters."""
    return _clean(" ".join(text.split()))[:1000]


def printable_lines(text: str) -> str:
    """Line breaks stay."""
    return "\n".join(map(_clean, text.split("\n")))


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
