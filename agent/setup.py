"""Opening what the daemon stands on, with errors that name the place and the remedy."""

from __future__ import annotations

import ipaddress
import os
import resource
import socket
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from agent import logs
from agent.config import Config, parse_address
from agent.errors import ExitCode, FatalError, state_code
from agent.gateway.gateway_tls import GatewayTls
from agent.gateway.identities import Identities
from agent.journal import DiskFullError, Journal, JournalError
from agent.stream.status import Target
from agent.stream.target_files import check_files
from enforcement.auditors.breaker import Rules
from enforcement.auditors.client import AuditorSettings
from enforcement.auditors.panel import AuditorService
from enforcement.gateway.gateway import GatewayConfig, Limits
from enforcement.policy.bundle import Bundle, BundleError
from enforcement.policy.bundle_signature import NOBODY, Trust
from enforcement.policy.engine import Engine

_LOG = logs.get("setup")
LOOPBACK = ("localhost", "::1")
OTHER_FILES = 256  # journal, stream, auditors, local API, files that are read (a guess)
BACKLOG = 1024  # connections the kernel may queue for the gateway


def state_directory(path: Path) -> Path:
    """Make the state directory (mode 0700) and prove that it can be written.

    Raises:
        FatalError: it cannot be made or written, is somebody else's, or others may write it.
    """
    remedy = "make it writable for the agent's user (mode 0700), or set agent.state_dir"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
        if info.st_uid != os.geteuid():  # who owns it may exchange what is in it
            raise FatalError(
                ExitCode.STATE,
                f"the state directory {path} belongs to user {info.st_uid}, not to the agent's user"
                f" {os.geteuid()}",
                remedy="chown it, with all that is in it, to the agent's user",
            )
        probe = path / f".write-test-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise FatalError(
            state_code(error),
            f"the state directory {path} cannot be used: {error.strerror}",
            remedy=remedy,
        ) from None
    if stat.S_IMODE(info.st_mode) & 0o022:
        raise FatalError(
            ExitCode.STATE,
            f"others may write the state directory {path}",
            remedy=f"chmod 0700 {path}",
        )
    return path


def load_bundle(path: Path, trust: Trust = NOBODY) -> tuple[Bundle, Engine]:
    """Load and compile the policy bundle. Blocking.

    Raises:
        FatalError: with every problem of the bundle.
    """
    try:
        bundle = Bundle.load(path, trust=trust)
        return bundle, Engine(bundle)
    except BundleError as error:
        raise FatalError(
            ExitCode.USAGE, f"the policy bundle {path} cannot be used:\n{error}"
        ) from None


def auditors(config: Config) -> AuditorService:
    """The auditors that the configuration names."""
    return AuditorService(
        [
            AuditorSettings(
                name=table.name,
                url=table.url,
                deadline=table.deadline_seconds,
                start=table.start_seconds,
                concurrency=table.concurrency,
                text_characters=table.text_characters,
                answer_bytes=table.answer_bytes,
                config=msgspec.json.encode(table.config),
                breaker=Rules(
                    failures=table.failures,
                    pause=table.pause_seconds,
                    longest_pause=table.longest_pause_seconds,
                ),
            )
            for table in config.auditors
        ]
    )


def known_auditors(config: Config, bundle: Bundle) -> None:
    """Look, without asking anybody, whether the configuration has the auditors of a bundle.

    Raises:
        FatalError: one is missing.
    """
    try:
        auditors(config).for_bundle(bundle)
    except BundleError as error:
        raise FatalError(ExitCode.USAGE, f"the policy bundle cannot be used:\n{error}") from None


async def check_auditors(service: AuditorService, bundle: Bundle, *, wait: bool) -> None:
    """Ask the auditors of a bundle whether they give what it says.

    Raises:
        FatalError: one does not, or could not be asked.
    """
    try:
        for warning in await service.check(bundle, wait=wait):
            _LOG.warning("auditors.unknown", problem=warning)
    except BundleError as error:
        raise FatalError(
            ExitCode.FAILED,  # an auditor may be there when the agent is started again
            f"the policy bundle {bundle.name} cannot be used:\n{error}",
        ) from None


def descriptors(config: Config) -> None:
    """Raise the limit of open files as far as the system lets us, and say where that is too little
    for what the gateway may hold: each exchange has two connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    needed = 2 * config.gateway.limits.connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        _LOG.warning(
            "setup.few_descriptors",
            limit=soft,
            needed=needed,
            next="raise LimitNOFILE= (ulimit -n), or lower gateway.limits.connections",
        )


def listen(address: str, *, table: str) -> socket.socket:
    """A listening, non-blocking TCP socket; `table` of the configuration names the address.

    Raises:
        FatalError: the address is taken or not ours.
    """
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise FatalError(
            ExitCode.USAGE,
            f"[{table}] cannot listen on {address}: {error.strerror}",
            remedy=f"set {table}.listen to a free address",
        ) from None
    sock.setblocking(False)
    return sock


def remove_socket(path: Path, made: os.stat_result) -> None:
    """Remove the local API's socket at the end, unless another one has taken its place."""
    with suppress(OSError):
        if os.path.samestat(path.lstat(), made):
            path.unlink()


def gateway_config(config: Config) -> GatewayConfig:
    """The door's settings from the configuration.

    Raises:
        FatalError: the upstream is not an address.
    """
    limits = msgspec.structs.asdict(config.gateway.limits)
    return GatewayConfig(upstream=config.gateway.upstream, limits=Limits(**limits))


def observer_target(config: Config, unchecked: Collection[str] = ()) -> Target:
    """Where the Observer is; plaintext only where nobody else can listen. Blocking: reads the
    files, so that a way that can never be gone is found before decisions pile up behind it.

    Args:
        unchecked: files that only the service is given: they are not looked for.

    Raises:
        FatalError: plaintext to another machine, which was not asked for; a file that cannot be
            used.
    """
    observer = config.observer
    host = observer.target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    local = observer.target.startswith("unix:") or host in LOOPBACK or host.startswith("127.")
    if not observer.ca_file and not local and not observer.insecure:
        raise FatalError(
            ExitCode.USAGE,
            f"the way to the Observer at {observer.target} would be plaintext",
            remedy="set observer.ca_file (TLS), or observer.insecure = true if you accept that",
        )

    def path(text: str) -> Path | None:
        return Path(text) if text else None

    target = Target(
        address=observer.target,
        ca=path(observer.ca_file),
        certificate=path(observer.certificate_file),
        key=path(observer.key_file),
    )
    try:
        check_files(target, unchecked)
    except ValueError as error:
        raise FatalError(
            ExitCode.USAGE, f"observer.{error}", remedy="PEM files that the agent's user can read"
        ) from None
    return target


def identities(config: Config) -> Identities:
    """Who may ask. Blocking: reads the file of keys.

    Raises:
        FatalError: that file cannot be used, or keys cannot be meant.
    """
    try:
        return Identities(config.identity, config.gateway.tls.caller)
    except ValueError as error:
        raise FatalError(
            ExitCode.USAGE,
            f"identity.keys, keys_file: {error}",
            remedy="each key has a name, and the output of: printf %s KEY | sha256sum; in the file"
            " one a line",
        ) from None


def gateway_tls(config: Config) -> GatewayTls | None:
    """What the gateway greets its clients with; None: they speak plain HTTP. Blocking.

    Raises:
        FatalError: the files cannot be used.
    """
    table = config.gateway.tls
    if table.wanted:
        return GatewayTls(table)
    host = parse_address(config.gateway.listen)[0]
    if not ipaddress.ip_address(host).is_loopback:
        _LOG.warning("gateway.plaintext", listen=config.gateway.listen)
    return None


def open_journal(
    config: Config, directory: Path, boot_seed: bytes, *, still_there: Callable[[], None]
) -> Journal:
    """Open the journal. Blocking: verifies the chains in it, and calls `still_there` now and then.

    Raises:
        FatalError: it cannot be used, or was changed.
    """
    try:
        return Journal.open(
            directory / "journal.sqlite",
            agent_id=config.agent.id,
            boot_seed=boot_seed,
            on_failure=config.journal.on_failure,
            max_bytes=config.journal.max_bytes,
            keep_days=config.journal.keep_days,
            await_acks=bool(config.observer.target),
            still_there=still_there,
        )
    except JournalError as error:
        code = ExitCode.FAILED if isinstance(error, DiskFullError) else ExitCode.STATE
        raise FatalError(code, str(error)) from None
