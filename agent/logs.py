"""Structured logs on standard error. Events are constants; values are typed; text never appears.

What may be logged: codes, ids, counts, sizes, times, file names, error classes and the messages
of this project's own exceptions. What may not: request or reply text, header values, keys. Of what
a library logs, only its constant message is written, without the values in it.

Every line is one call of the standard library's logging under `lucid.<part>`, with its values in
`extra={"values": …}`; `get` gives a logger that writes calls so. While `Output.thread` is open, a
thread of its own writes the lines: a reader that stops reading costs lines, which are counted, and
never the event loop's time.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal

WAITING: Final = 4096  # lines that may wait for a slow reader
END_SECONDS: Final = 2.0  # that the last lines may take

_NAME: Final = "lucid."
logging.getLogger("lucid").addHandler(logging.NullHandler())  # silent unless configured
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class Output:
    """Standard error, where a full disk or a reader that went away costs a line, not the daemon."""

    def __init__(self) -> None:
        self._queue: queue.Queue[str | None] | None = None
        self._refused = 0  # before they came to be written; changed under the handler's lock
        self._unwritten = 0

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._refused + self._unwritten

    def line(self, text: str) -> None:
        """Write a line, or leave it to the thread; count what cannot be."""
        if self._queue is None:
            self._write(text)
            return
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self._refused += 1

    def lose(self) -> None:
        """Count a line that there is no text for."""
        self._refused += 1

    @contextmanager
    def thread(self, descriptor: int = 2) -> Iterator[None]:
        """A thread writes until the block is left, and has then written everything that the reader
        took in time. One that is stuck in a write is left behind; it does not keep the process.
        """
        lines: queue.Queue[str | None] = queue.Queue(WAITING)
        worker = threading.Thread(
            target=self._work, args=(lines, descriptor), name="log", daemon=True
        )
        worker.start()
        self._queue = lines
        try:
            yield
        finally:
            self._queue = None
            with suppress(queue.Full):
                lines.put(None, timeout=END_SECONDS)
                worker.join(END_SECONDS)
            if worker.is_alive():
                self._abandon(lines)

    def _abandon(self, lines: queue.Queue[str | None]) -> None:
        """Count what is left; the thread ends when its write does."""
        with suppress(queue.Empty):
            while True:
                if lines.get_nowait() is not None:
                    self._refused += 1
        lines.put_nowait(None)

    def _work(self, lines: queue.Queue[str | None], descriptor: int) -> None:
        while (line := lines.get()) is not None:
            rest = memoryview(f"{line}\n".encode(errors="backslashreplace"))
            try:  # not by sys.stderr: whoever is stuck in it keeps its lock, and so the process
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                self._unwritten += 1

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            self._unwritten += 1


OUTPUT: Final = Output()


class Logger:
    """Logs of one part of the daemon: an event's name, and its values by keyword."""

    def __init__(self, part: str) -> None:
        self._log = logging.getLogger(_NAME + part)

    def debug(self, event: str, **values: object) -> None:
        """What only a developer wants to see."""
        self._log.debug(event, extra={"values": values})

    def info(self, event: str, **values: object) -> None:
        """What an operator may want to know later."""
        self._log.info(event, extra={"values": values})

    def warning(self, event: str, **values: object) -> None:
        """What an operator should look at; the daemon goes on as it should."""
        self._log.warning(event, extra={"values": values})

    def error(self, event: str, **values: object) -> None:
        """What an operator must look at."""
        self._log.error(event, extra={"values": values})


def get(part: str) -> Logger:
    """The logger of one part of the daemon."""
    return Logger(part)


def configure(*, level: str, form: Literal["json", "text"]) -> None:
    """Set up logging once, at the start of the process. What libraries log begins at WARNING."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(_Handler(form))
    root.setLevel(logging.WARNING)
    logging.getLogger("lucid").setLevel(_LEVELS.get(level, logging.ERROR))


class _Handler(logging.Handler):
    """Renders a record and gives it to the output."""

    def __init__(self, form: Literal["json", "text"]) -> None:
        super().__init__()
        self._render = as_json if form == "json" else as_text

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self._render(fields(record))
        except Exception:  # noqa: BLE001 - a value whose repr fails costs its line, nothing else
            OUTPUT.lose()
        else:
            OUTPUT.line(text)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says: `part`, the event's values, `event`, `level`, `timestamp` (RFC 3339, UTC).

    A library's record has its logger as `part` and its message as it was written in the source.
    """
    ours = record.name.startswith(_NAME)
    return {
        "part": record.name.removeprefix(_NAME),
        **(getattr(record, "values", {}) if ours else {}),
        "event": record.msg if isinstance(record.msg, str) else type(record.msg).__name__,
        "level": record.levelname.lower(),
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
    }


def as_json(said: dict[str, Any]) -> str:
    """One line of JSON, in ASCII."""
    return json.dumps(said, default=repr)


def as_text(said: dict[str, Any]) -> str:
    """One line for people. Values are written as JSON, so that none can begin a line of its own."""
    rest = dict(said)
    head = f"{rest.pop('timestamp')} [{rest.pop('level'):<7}] {rest.pop('event'):<24}"
    return " ".join([head, *(f"{name}={_value(value)}" for name, value in rest.items())])


def _value(value: object) -> str:
    text = json.dumps(value, default=repr)
    word = text[1:-1]
    bare = isinstance(value, str) and word and not any(sign in word for sign in ' "\\=')
    return word if bare else text
