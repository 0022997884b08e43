"""Values of command-line options that more than one command takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click


class Hex(click.ParamType[bytes]):
    """Bytes in hexadecimal, of a fixed length where one is given."""

    name = "hex"

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            data = bytes.fromhex(value)
        except ValueError:
            self.fail("not hexadecimal", param, ctx)
        if not self._low <= len(data) <= self._high:
            sizes = f"{self._low}" if self._low == self._high else f"{self._low} to {self._high}"
            self.fail(f"{len(data)} bytes; {sizes} are needed", param, ctx)
        return data


class Moment(click.ParamType[datetime]):
    """An ISO 8601 time (UTC if no zone is given) or Unix seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if value.isascii() and value.isdigit():
                return datetime.fromtimestamp(int(value), UTC)
            moment = datetime.fromisoformat(value)
        except (ValueError, OverflowError, OSError):
            self.fail("not an ISO 8601 time or Unix seconds", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
