"""Fetches quotes through the kernel's configfs-tsm reports (Linux 6.7 and newer).

Source: Linux `Documentation/ABI/testing/configfs-tsm-report`, `drivers/virt/coco/guest/report.c`.

One transaction is one entry of its own. Its result counts only if the generation shows exactly our
own writes after the last read, and if the quote carries our report data: the kernel forgets what a
commit at close came to, so a write that succeeds proves nothing. What may be better a moment later
(busy, timed out, stale, empty) is tried again whole, in a new entry, a bounded number of times.
"""

from __future__ import annotations

import errno
import hmac
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from attestation.errors import KEY_DISABLED, QuoteError
from attestation.snp.abi import REPORT_DATA, REPORT_SIZE
from attestation.tsm import ENTRY_PREFIX, MAX_PRIVLEVEL, REPORT_DATA_SIZE, Quote, TsmTree

ATTEMPTS: Final = 5

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


def fetch_quote(
    tree: TsmTree,
    report_data: bytes,
    *,
    privlevel: int | None = None,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
    wanted: Callable[[], bool] = lambda: True,
    failed: Callable[[str, int | None], None] = lambda _code, _number: None,
    entry_prefix: str = ENTRY_PREFIX,
) -> Quote:
    """A quote over `report_data`. Blocking: a TDX quote takes about a second, a throttled SNP
    report up to a minute.

    Args:
        report_data: exactly 64 bytes.
        privlevel: SEV-SNP: the VMPL that the report is asked for, 0 to 3. None: the kernel's
            floor where that is above 0; the kernel itself would ask for 0, and be refused.
        attempts: how many transactions at most.
        sleep: waits a number of seconds between two of them.
        wanted: asked before each further transaction; False: nobody waits for the quote any more.
        failed: told the code and the error number of each transaction that failed.
        entry_prefix: the names of our entries begin so.

    Raises:
        QuoteError: `quote.no_tee`, `quote.permission`, `quote.key_disabled`, `quote.provider`,
            `quote.format`, `quote.privlevel`, `quote.refused`: final. `quote.busy`, `quote.stale`,
            `quote.empty`: still so after all attempts. `quote.foreign`: the quote is not over our
            report data.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"report data have {REPORT_DATA_SIZE} bytes, not {len(report_data)}")
    if privlevel is not None and not 0 <= privlevel <= MAX_PRIVLEVEL:
        raise ValueError(f"a privilege level is 0 to {MAX_PRIVLEVEL}, not {privlevel}")
    if attempts < 1:
        raise ValueError("at least one attempt is needed")
    delay = _FIRST_DELAY
    for done in range(1, attempts + 1):
        try:
            with _entry(tree, entry_prefix) as entry:
                return _exchange(tree, entry, report_data, privlevel)
        except QuoteError as error:
            failed(error.code, error.errno)
            raise
        except _RetryError as error:
            failed(error.code, error.number)
            if done < attempts:
                sleep(delay)
            if done == attempts or not wanted():
                raise error.as_quote_error(done) from None
            delay = min(2 * delay, _MAX_DELAY)
    raise AssertionError("unreachable")  # pragma: no cover


def find_provider(tree: TsmTree, *, entry_prefix: str = ENTRY_PREFIX) -> str:
    """The name of the kernel's provider, e.g. `sev_guest`. Makes and removes an entry.

    Raises:
        QuoteError: `quote.no_tee`, `quote.permission`, `quote.refused`, `quote.provider`: final;
            `quote.busy`: not to be had at the moment.
    """
    try:
        with _entry(tree, entry_prefix) as entry:
            return _provider(tree, entry)[0]
    except _RetryError as error:
        raise error.as_quote_error(1) from None


class _RetryError(Exception):
    """This transaction failed; another one may not."""

    def __init__(self, code: str, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.number = number

    def as_quote_error(self, attempts: int) -> QuoteError:
        times = "once" if attempts == 1 else f"{attempts} times"
        return QuoteError(
            self.code,
            f"{self}; tried {times}",
            remedy="it is tried again later; if it stays so, look at the host and at dmesg",
            errno=self.number,
        )


@contextmanager
def _entry(tree: TsmTree, prefix: str) -> Iterator[str]:
    """An entry of our own, while the block lasts; errors of the tree are explained."""
    entry = f"{prefix}{os.getpid()}-{uuid.uuid4().hex}"
    try:
        tree.mkdir(entry)
    except OSError as error:
        raise _explain(error, "mkdir") from None
    try:
        yield entry
    finally:
        # A quote is not worse for an entry that stays; it is private to us, so nobody reads it.
        with suppress(OSError):
            tree.rmdir(entry)


@contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, name) from None


def _exchange(tree: TsmTree, entry: str, report_data: bytes, privlevel: int | None) -> Quote:
    provider, find_report_data = _provider(tree, entry)
    privlevel = _level(tree, entry, privlevel)
    before = _generation(tree, entry)
    writes = 1
    with _step("inblob"):
        tree.write(entry, "inblob", report_data)
    if privlevel is not None:
        writes += 1
        _write_level(tree, entry, privlevel)
    with _step("outblob"):
        outblob = tree.read(entry, "outblob")
    with _step("auxblob"):
        auxblob = _read_if_there(tree, entry, "auxblob")
    # Last of all: reading a stale auxblob makes a new quote.
    after = _generation(tree, entry)
    if after != before + writes:
        raise _RetryError(
            "quote.stale",
            f"somebody else wrote to our entry (generation {before} to {after}, our writes:"
            f" {writes})",
        )
    if not outblob:
        raise _RetryError("quote.empty", "the quote is empty")
    if not hmac.compare_digest(find_report_data(outblob), report_data):
        raise QuoteError(
            "quote.foreign",
            "the quote is over other report data than ours",
            remedy="do not trust this host's quotes until it is known who wrote them",
        )
    return Quote(provider=provider, outblob=outblob, auxblob=auxblob or b"")


def _provider(tree: TsmTree, entry: str) -> tuple[str, Callable[[bytes], bytes]]:
    """The provider, and what finds the report data in its quotes."""
    with _step("provider"):
        provider = tree.read(entry, "provider").decode("ascii", "replace").strip()
    return provider, _format_of(provider)


def report_data_of(quote: Quote) -> bytes:
    """The report data that a quote is over, as its format says. Proves nothing of its signature.

    Raises:
        QuoteError: `quote.provider`, `quote.format`.
    """
    return _format_of(quote.provider)(quote.outblob)


def _format_of(provider: str) -> Callable[[bytes], bytes]:
    if (found := _FORMATS.get(provider)) is not None:
        return found
    raise QuoteError(
        "quote.provider",
        f"the kernel's provider is {provider[:64]!r}; known: {', '.join(_FORMATS)}",
        remedy=_NO_TEE_REMEDY,
        final=True,
    )


def _level(tree: TsmTree, entry: str, wanted: int | None) -> int | None:
    """The privilege level to write; None: none, the kernel's default is right."""
    with _step("privlevel_floor"):
        text = _read_if_there(tree, entry, "privlevel_floor")
    floor = None if text is None else _number(text, "privlevel_floor")
    if wanted is None:
        return floor or None
    if floor is None:
        raise _level_error(f"privilege level {wanted} is asked for; this TEE has no such levels")
    if wanted < floor:
        raise _level_error(f"privilege level {wanted} is below the kernel's floor, {floor}")
    return wanted


def _write_level(tree: TsmTree, entry: str, level: int) -> None:
    try:
        tree.write(entry, "privlevel", b"%d\n" % level)  # text: a raw byte is refused
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _level_error(f"the kernel refuses privilege level {level}", error.errno) from None
        raise _explain(error, "privlevel") from None


def _level_error(message: str, number: int | None = None) -> QuoteError:
    remedy = "ask for no level, or for one from `privlevel_floor` to 3, on SEV-SNP only"
    return QuoteError("quote.privlevel", message, remedy=remedy, final=True, errno=number)


def _generation(tree: TsmTree, entry: str) -> int:
    with _step("generation"):
        return _number(tree.read(entry, "generation"), "generation")


def _number(text: bytes, attribute: str) -> int:
    text = text.strip()
    if not text.isdigit() or len(text) > 20:  # an unsigned long
        raise QuoteError("quote.format", f"{attribute} reads {text[:32]!r}", final=True)
    return int(text)


def _read_if_there(tree: TsmTree, entry: str, attribute: str) -> bytes | None:
    try:
        return tree.read(entry, attribute)
    except FileNotFoundError:
        return None  # TDX has no auxblob and no privilege levels


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
            KEY_DISABLED,
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
