"""Measures every policy bundle that is enforced into the TDX register for run time (RTMR3).

Source: Linux `drivers/virt/coco/tdx-guest` (tsm-mr, from 6.16 on): the file `rtmr3:sha384` gives
the register's 48 bytes, and a write of 48 bytes extends it. A quote made after that carries the
bundle in hardware: `attestation.tdx.runtime_register` says how to compute what it has to be.

What was measured in this boot of the machine stands in a file, written before the register is
extended: the register cannot be set back, and an agent that starts again must not measure twice.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from attestation.errors import QuoteError
from attestation.tdx.runtime_register import SIZE, after, bundle_event

REGISTER: Final = "rtmr3:sha384"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
MAX_LOG_SIZE: Final = 1024 * 1024  # bytes; about 15,000 bundles in one boot


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """What was measured in one boot.

    Attributes:
        base: what the register was before; others may have extended it.
    """

    boot: str
    base: bytes
    digests: tuple[bytes, ...] = ()

    def value(self, count: int | None = None) -> bytes:
        return after(self.digests[:count], self.base)


class Register(Protocol):
    """A register that can only be extended. Operations raise QuoteError."""

    def value(self) -> bytes:
        """48 bytes."""

    def extend(self, event: bytes) -> None:
        """Extend with 48 bytes."""


class KernelRegister:
    """RTMR3 as the kernel shows it, in a directory with all registers. Blocking."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / REGISTER

    def value(self) -> bytes:
        """48 bytes."""
        try:
            with self._path.open("rb", buffering=0) as file:
                value = file.read(SIZE)
        except OSError as error:
            raise self._unusable(error.strerror or "", error.errno) from None
        if len(value) != SIZE:
            raise self._unusable(f"it gave {len(value)} bytes", None)
        return value

    def extend(self, event: bytes) -> None:
        """Extend with 48 bytes, in one write at the beginning, as the kernel wants it."""
        try:
            with self._path.open("r+b", buffering=0) as file:
                file.write(event)
        except OSError as error:
            raise self._unusable(error.strerror or "", error.errno) from None

    def _unusable(self, why: str, number: int | None) -> QuoteError:
        return QuoteError(
            "rtmr3.register",
            f"{self._path} cannot be used: {why}",
            remedy="Linux 6.16 or newer on TDX has it, for root; or set [tee] extend_rtmr3 = false",
            final=True,
            errno=number,
        )


class Measurer:
    """Keeps the register and what was measured in step. Blocking; one caller at a time.

    Args:
        log: the file that says what was measured.
        boot: names this boot of the machine.
    """

    def __init__(self, register: Register, log: Path, *, boot: str) -> None:
        self._register, self._log, self._boot = register, log, boot

    def measure(self, digest: bytes) -> None:
        """Extend the register with a bundle's digest (32 bytes), unless it is the last one there.

        Raises:
            QuoteError: `rtmr3.*`: the kernel has no such register, it contains what the agent did
                not measure, or the file cannot be kept.
        """
        log, value = self._load(), self._register.value()
        if log is None:
            log = _Log(boot=self._boot, base=value)
        if value != log.value():
            # An agent that was killed between the file and the register goes on there.
            if not log.digests or value != log.value(len(log.digests) - 1):
                raise self._foreign()
            self._extend(log)
        if log.digests[-1:] == (digest,):
            return
        log = _Log(boot=self._boot, base=log.base, digests=(*log.digests, digest))
        self._save(log)
        self._extend(log)

    def _extend(self, log: _Log) -> None:
        self._register.extend(bundle_event(log.digests[-1]))
        if self._register.value() != log.value():
            raise self._foreign()

    def _load(self) -> _Log | None:
        """What was measured in this boot; of another boot nothing counts."""
        try:
            with self._log.open("rb") as file:
                value = json.loads(file.read(MAX_LOG_SIZE))
            log = _Log(
                boot=value["boot"],
                base=bytes.fromhex(value["base"]),
                digests=tuple(bytes.fromhex(item) for item in value["digests"]),
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._state(error.strerror or "") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._state("it is damaged") from None
        return log if log.boot == self._boot else None

    def _save(self, log: _Log) -> None:
        value = {
            "boot": log.boot,
            "base": log.base.hex(),
            "digests": [digest.hex() for digest in log.digests],
        }
        new = self._log.with_suffix(".new")
        try:
            with new.open("w", encoding="ascii") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._log)
            directory = os.open(self._log.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._state(error.strerror or "") from None

    def _state(self, why: str) -> QuoteError:
        return QuoteError(
            "rtmr3.state",
            f"{self._log}, which says what was measured in this boot, cannot be used: {why}",
            remedy="make the state directory usable and restart the machine: the register cannot"
            " be set back",
            final=True,
        )

    def _foreign(self) -> QuoteError:
        return QuoteError(
            "rtmr3.foreign",
            "RTMR3 contains what the agent did not measure",
            remedy="something else extends RTMR3 while the agent runs: stop it and restart the"
            " machine, or set [tee] extend_rtmr3 = false",
            final=True,
        )


def this_boot() -> str:
    """The kernel's name for this boot of the machine.

    Raises:
        QuoteError: `rtmr3.state`: there is none.
    """
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError as error:
        raise QuoteError(
            "rtmr3.state", f"{BOOT_ID} cannot be read: {error.strerror}", final=True
        ) from None
