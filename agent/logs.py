"""Structured logs on standard error. Events are constants; values are typed; text never appears.

What may be logged: codes, ids, counts, sizes, times, file names, error classes and the messages
of this project's own exceptions. What may not: request or reply text, header values, keys.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, Literal

import structlog

Logger = structlog.typing.FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class Output:
    """Standard error, where a full disk or a reader that went away costs a line, not the daemon.

    Attributes:
        dropped: lines (or parts of them) that could not be written.
    """

    def __init__(self) -> None:
        self.dropped = 0

    def write(self, text: str) -> int:
        """Write, or count what could not be written."""
        try:
            return sys.stderr.write(text)
        except (OSError, ValueError):  # ValueError: it is closed
            self.dropped += 1
            return len(text)

    def flush(self) -> None:
        """See `write`."""
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            self.dropped += 1


OUTPUT: Final = Output()


def configure(*, level: str, form: Literal["json", "text"]) -> None:
    """Set up logging once, at the start of the process."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS.get(level, logging.ERROR)),
        logger_factory=structlog.PrintLoggerFactory(file=OUTPUT),  # type: ignore[arg-type]  # it writes and flushes
        cache_logger_on_first_use=False,
    )


def get(part: str) -> Logger:
    """The logger of one part of the daemon."""
    logger: Logger = structlog.get_logger(part=part)
    return logger
