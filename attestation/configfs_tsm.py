"""Fetches quotes through the kernel's configfs-tsm reports (Linux 6.7 and newer).

Source: Linux `Documentation/ABI/testing/configfs-tsm-report`, `drivers/virt/coco/guest/report.c`.

One transaction is one entry of its own. Its result counts only if the generation shows exactly our
one write after the last read, and if the quote carries our report data: the kernel forgets what a
commit at close came to, so a write that succeeds proves nothing. What may be better a moment later
(busy, timed out, stale, empty) is tried again whole, in a new entry, a bounded number of times.
"""

from __future__ import annotations

import errno
import hmac
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from attestation.errors import QuoteError
from attestation.snp.abi import REPORT_DATA, REPORT_SIZE
from attestation.tsm import REPORT_DATA_SIZE, Quote, TsmTree

DEFAULT_PATH: Final = Path("/sys/kernel/config/tsm/report")
MAX_BLOB_SIZE: Final = 1 << 24  # bytes; the kernel's own limit on an outblob

_CHUNK: Final = 65_536
_FIRST_DELAY: Final = 0.1  # seconds; doubles with each attempt
_MAX_DELAY: Final = 2.0
_RETRYABLE: Final = frozenset(
    {errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EIO, errno.EEXIST}
)
_NO_TEE_REMEDY: Final = (
    "run inside an SEV-SNP or TDX guest with Linux 6.7 or newer and configfs mounted"
    " (modprobe sev-guest or tdx-guest); to try without hardware: [tee] mode = 'simulated'"
)
_TDX_V4_REPORT_DATA: Final = slice(568, 632)  # header 48, report data at 520 of the body
_TDX_V5_REPORT_DATA: Final = slice(574, 638)  # header 48, body type 2, body size 4
_TDX_TEE_TYPE: Final = 0x81
_TDX_V5_BODIES: Final = (2, 3)  # TD 1.0 and TD 1.5


class KernelTree:
    """The kernel's tree, with plain system calls: one open, one transfer, one close."""

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self.path = path

    def entries(self) -> list[str]:
        """Names of the entries that exist."""
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())

    def mkdir(self, entry: str) -> None:
        """Make an entry. ENXIO: no provider. EEXIST: the name is taken."""
        os.mkdir(self._path(entry), 0o700)  # noqa: PTH102 - one system call, as the interface says

    def rmdir(self, entry: str) -> None:
        """Remove an entry. Its attributes go with it; unlinking them first would fail."""
        os.rmdir(self._path(entry))  # noqa: PTH106 - one system call, as the interface says

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """One write; a second one would be another commit for a text attribute."""
        descriptor = os.open(self._path(entry, attribute), os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        if written != len(data):
            raise OSError(errno.EIO, f"{written} of {len(data)} bytes were taken", attribute)

    def read(self, entry: str, attribute: str) -> bytes:
        """Read to the end; the size that stat gives means nothing here."""
        descriptor = os.open(self._path(entry, attribute), os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = bytearray()
            while chunk := os.read(descriptor, _CHUNK):
                content += chunk
                if len(content) > MAX_BLOB_SIZE:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), attribute)
            return bytes(content)
        finally:
            os.close(descriptor)

    def _path(self, *names: str) -> Path:
        for name in names:
            if not name or "/" in name or name in {".", ".."}:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        return self.path.joinpath(*names)


def fetch_quote(
    tree: TsmTree,
    report_data: bytes,
    *,
    attempts: int = 5,
    sleep: Callable[[float], None] = time.sleep,
    entry_prefix: str = "lucid-",
) -> Quote:
    """A quote over `report_data`. Blocking: a TDX quote takes about a second, a throttled SNP
    report up to a minute.

    Args:
        report_data: exactly 64 bytes.
        attempts: how many transactions at most.
        sleep: waits a number of seconds between two of them.
        entry_prefix: the names of our entries begin so.

    Raises:
        QuoteError: `quote.no_tee`, `quote.permission`, `quote.key_disabled`, `quote.provider`,
            `quote.format`, `quote.refused`: final. `quote.busy`, `quote.stale`, `quote.empty`:
            still so after all attempts. `quote.foreign`: the quote is not over our report data.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"report data have {REPORT_DATA_SIZE} bytes, not {len(report_data)}")
    if attempts < 1:
        raise ValueError("at least one attempt is needed")
    delay = _FIRST_DELAY
    for left in reversed(range(attempts)):
        try:
            return _transaction(tree, report_data, entry_prefix)
        except _RetryError as error:
            if not left:
                raise error.as_quote_error(attempts) from None
            sleep(delay)
            delay = min(2 * delay, _MAX_DELAY)
    raise AssertionError("unreachable")  # pragma: no cover


def sweep(
    tree: TsmTree, *, alive: Callable[[int], bool], entry_prefix: str = "lucid-"
) -> list[str]:
    """Remove entries that a killed agent left behind; gives their names. Called once, at start.

    Args:
        alive: whether there is a process with this number. Entries of live ones stay.

    An entry that cannot be removed stays: it holds memory, and nobody reads it.
    """
    swept: list[str] = []
    with suppress(OSError):  # no tree: the first quote says so, with what to do
        for entry in tree.entries():
            owner = entry.removeprefix(entry_prefix).partition("-")[0]
            ours = entry.startswith(entry_prefix) and owner.isascii() and owner.isdigit()
            if ours and len(owner) < 10 and not alive(int(owner)):
                with suppress(OSError):
                    tree.rmdir(entry)
                    swept.append(entry)
    return swept


class _RetryError(Exception):
    """This transaction failed; another one may not."""

    def __init__(self, code: str, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.number = number

    def as_quote_error(self, attempts: int) -> QuoteError:
        return QuoteError(
            self.code,
            f"{self}; tried {attempts} times",
            remedy="it is tried again later; if it stays so, look at the host and at dmesg",
            errno=self.number,
        )


def _transaction(tree: TsmTree, report_data: bytes, entry_prefix: str) -> Quote:
    entry = f"{entry_prefix}{os.getpid()}-{uuid.uuid4().hex}"
    try:
        tree.mkdir(entry)
    except OSError as error:
        raise _explain(error, "mkdir") from None
    try:
        return _exchange(tree, entry, report_data)
    finally:
        # A quote is not worse for an entry that stays; it is private to us, so nobody reads it.
        with suppress(OSError):
            tree.rmdir(entry)


def _exchange(tree: TsmTree, entry: str, report_data: bytes) -> Quote:
    step = "provider"
    try:
        provider = tree.read(entry, step).decode("ascii", "replace").strip()
        check = _FORMATS.get(provider)
        if check is None:
            raise QuoteError(
                "quote.provider",
                f"the kernel's provider is {provider[:64]!r}; known: {', '.join(_FORMATS)}",
                remedy=_NO_TEE_REMEDY,
                final=True,
            )
        step = "generation"
        before = _generation(tree, entry)
        step = "inblob"
        tree.write(entry, step, report_data)
        step = "outblob"
        outblob = tree.read(entry, step)
        step = "auxblob"
        auxblob = _read_if_there(tree, entry, step)
        # Last of all: reading a stale auxblob makes a new quote.
        step = "generation"
        after = _generation(tree, entry)
    except OSError as error:
        raise _explain(error, step) from None
    if after != before + 1:
        raise _RetryError(
            "quote.stale", f"somebody else wrote to our entry (generation {before} to {after})"
        )
    if not outblob:
        raise _RetryError("quote.empty", "the quote is empty")
    if not hmac.compare_digest(check(outblob), report_data):
        raise QuoteError(
            "quote.foreign",
            "the quote is over other report data than ours",
            remedy="do not trust this host's quotes until it is known who wrote them",
        )
    return Quote(provider=provider, outblob=outblob, auxblob=auxblob)


def _generation(tree: TsmTree, entry: str) -> int:
    text = tree.read(entry, "generation").strip()
    if not text.isdigit() or len(text) > 20:  # an unsigned long
        raise QuoteError("quote.format", f"the generation reads {text[:32]!r}", final=True)
    return int(text)


def _read_if_there(tree: TsmTree, entry: str, attribute: str) -> bytes:
    try:
        return tree.read(entry, attribute)
    except FileNotFoundError:
        return b""  # TDX has no auxblob


def _snp_report_data(outblob: bytes) -> bytes:
    if len(outblob) != REPORT_SIZE:
        raise QuoteError(
            "quote.format",
            f"an SEV-SNP report has {REPORT_SIZE} bytes, the kernel gave {len(outblob)}",
            final=True,
        )
    return outblob[REPORT_DATA]


def _tdx_report_data(outblob: bytes) -> bytes:
    version = int.from_bytes(outblob[0:2], "little")
    tee_type = int.from_bytes(outblob[4:8], "little")
    body = int.from_bytes(outblob[48:50], "little")
    if tee_type == _TDX_TEE_TYPE:
        where = None
        if version == 4:
            where = _TDX_V4_REPORT_DATA
        elif version == 5 and body in _TDX_V5_BODIES:
            where = _TDX_V5_REPORT_DATA
        if where is not None and len(outblob) >= where.stop:
            return outblob[where]
    raise QuoteError(
        "quote.format",
        f"a quote of {len(outblob)} bytes, version {version}, TEE type {tee_type:#x} is not a TDX"
        " quote that is known here",
        final=True,
    )


_FORMATS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "sev_guest": _snp_report_data,
    "tdx_guest": _tdx_report_data,
}


def _explain(error: OSError, step: str) -> QuoteError | _RetryError:
    """What an error of the tree means at this step of a transaction."""
    number = error.errno or 0
    name = errno.errorcode.get(number, str(number))
    found = f"{step}: {error.strerror} ({name})"
    no_tee = (
        number == errno.ENXIO
        or (step == "mkdir" and number in {errno.ENOENT, errno.ENOTDIR, errno.ENOSYS})
        # Linux 6.7 lets an entry be made without a provider, and says so here.
        or (step == "provider" and number == errno.ENOTTY)
    )
    if no_tee:
        return QuoteError(
            "quote.no_tee",
            f"no TEE: looked for a configfs-tsm provider (sev_guest, tdx_guest); {found}",
            remedy=_NO_TEE_REMEDY,
            final=True,
            errno=number,
        )
    if number in _RETRYABLE or number == errno.ENOENT:  # somebody removed our entry
        return _RetryError("quote.busy", f"the platform gave no quote; {found}", number)
    if number == errno.ENOTTY:
        return QuoteError(
            "quote.key_disabled",
            f"the guest's key for talking to the firmware is disabled; {found}",
            remedy="reboot this guest; nothing else helps",
            final=True,
            errno=number,
        )
    if number in {errno.EACCES, errno.EPERM}:
        return QuoteError(
            "quote.permission",
            f"not allowed to fetch a quote; {found}",
            remedy="the kernel's report tree is for root: run the agent as its unit file does",
            final=True,
            errno=number,
        )
    return QuoteError(
        "quote.refused",
        f"the platform refuses to make a quote; {found}",
        remedy="look at dmesg for what the firmware answered",
        final=True,
        errno=number,
    )
