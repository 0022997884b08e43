"""Talking to an agent's local API: over its Unix socket, or a URL that leads there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from attestation import cbor
from attestation.errors import MalformedError
from lucid.exchange import ExchangeError, exchange
from lucid.exits import UNCHECKED
from lucid.terminal import printable

SECONDS: Final = 60.0  # for a whole answer; a push waits half of it for its passport
MAX_ANSWER: Final = 64 * 1024 * 1024  # bytes; ten thousand decisions have some 20 MB


class AgentError(click.ClickException):
    """The agent could not be asked. The message says where and why."""

    exit_code = UNCHECKED

    def show(self, file: Any = None) -> None:
        """As every command says what went wrong."""
        click.echo(f"lucid: {printable(self.format_message())}", file=file, err=file is None)


class _Object(dict[str, Any]):
    """A JSON object of an agent; what it lacks is an error of its own."""

    def __missing__(self, key: str) -> Any:
        raise AgentError(f"the answer is not an agent's: it has no {key!r}; {_WHICH}")


_WHICH: Final = "--agent names the agent's local API ([api] socket), not its gateway"


class Answer:
    """What the agent said. `value` is JSON-like, or the files of a bundle."""

    def __init__(self, status: int, value: Any) -> None:
        self.status = status
        self.value = value

    @property
    def message(self) -> str:
        """The error's own words."""
        error = self.value.get("error") if isinstance(self.value, dict) else None
        return str(error.get("message", error)) if isinstance(error, dict) else f"{self.status}"


class AgentClient:
    """One agent. `target`: a path, `unix:PATH`, or `http(s)://…`."""

    def __init__(self, target: str) -> None:
        self._target = target
        if target.startswith(("http://", "https://")):
            self._base, self._socket = target.rstrip("/"), None
        else:
            self._base, self._socket = "http://agent", target.removeprefix("unix:")

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """One request.

        Raises:
            AgentError: nobody answers, or the answer is not understood.
        """
        if self._socket is not None and not Path(self._socket).is_socket():
            raise self._silent("there is no such socket")
        try:
            answer = exchange(
                method,
                f"{self._base}{path}",
                largest=MAX_ANSWER,
                seconds=SECONDS,
                socket=self._socket,
                body=body,
            )
        except ExchangeError as error:
            raise self._silent(str(error)) from None
        try:
            if answer.headers.get("content-type") == "application/cbor":
                return Answer(answer.status, cbor.decode(answer.body, max_size=MAX_ANSWER))
            value = json.loads(answer.body, object_hook=_Object)
            if isinstance(value, dict):
                return Answer(answer.status, value)
        except (MalformedError, ValueError, RecursionError):
            pass
        raise AgentError(f"{self._target} does not answer like an agent; {_WHICH}")

    def _silent(self, why: str) -> AgentError:
        return AgentError(f"no agent answers on {self._target}: {why}; {_WHICH}")

    def get(self, path: str) -> Any:
        """What a path holds.

        Raises:
            AgentError: it cannot be had.
        """
        answer = self.ask("GET", path)
        if answer.status != 200:
            raise AgentError(f"{self._target} answers {answer.status}: {answer.message}")
        return answer.value

    def files(self, digest: str = "") -> dict[str, bytes]:
        """The files of a bundle that the agent keeps; without a digest: of the one in force.

        Raises:
            AgentError: it cannot be had.
        """
        value = self.get("/v1/policy/bundle" + (f"?digest={digest}" if digest else ""))
        if not isinstance(value, dict) or not all(
            isinstance(name, str) and isinstance(content, bytes) for name, content in value.items()
        ):
            raise AgentError(f"{self._target} does not answer like an agent; {_WHICH}")
        return value
