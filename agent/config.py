"""Configuration: one typed file, then `LUCID_*` variables, then refusal of everything unknown.

`/etc/lucid/agent.toml` has one table per part of the daemon. A variable overrides one key:
`LUCID_GATEWAY_LISTEN` is `listen` of `[gateway]`, `LUCID_GATEWAY_LIMITS_BODY_BYTES` is
`body_bytes` of `[gateway.limits]`. Unknown keys and variables are errors that name the nearest
known one. Secrets are never values here: only paths of files that hold them, or `credential:NAME`
(`agent.credentials`). Relative paths are relative to the file.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec

from agent.config_tls import Table as _Table
from agent.config_tls import TlsTable
from agent.credentials import resolve
from attestation.fetching.asker import check_url
from attestation.tdx.pcs import BASE_URL, ROOT_CRL_URL
from enforcement.auditors.client import AuditorSettings
from enforcement.identity.token_rules import ALGORITHMS
from enforcement.identity.token_rules import check_url as check_keys_url

ENV_PREFIX: Final = "LUCID_"
# Variables with the prefix that are not configuration of the daemon.
NOT_CONFIGURATION: Final = frozenset(
    {"LUCID_CONFIG", "LUCID_VECTORS", "LUCID_AGENT_SOCKET", "LUCID_TEST_HANG"}
)
# Kubernetes tells every container of services: `lucid-observer` gives LUCID_OBSERVER_SERVICE_HOST,
# LUCID_OBSERVER_PORT_50051_TCP_ADDR and so on. The Observer has variables of its own, too.
_OTHERS: Final = re.compile(
    r"LUCID_\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)|LUCID_OBSERVER_RUN_\w+"
)
MAX_CONFIG_SIZE: Final = 1024 * 1024  # bytes

_LISTS: Final = frozenset({"keys", "tokens", "auditors", "trusted_keys", "trust_domains"})

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class ConfigError(Exception):
    """The configuration cannot be used. The message lists every problem found, one a line."""


class AgentTable(_Table, frozen=True):
    """`[agent]`: who this is and where it keeps things."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = ""
    state_dir: str = "/var/lib/lucid"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    stop_seconds: Seconds = 20.0  # for draining requests and delivering the journal at stop


class TeeTable(_Table, frozen=True):
    """`[tee]`: which hardware gives the quotes."""

    mode: Literal["auto", "sev-snp", "tdx", "simulated"] = "auto"
    simulate: Literal["sev-snp", "tdx"] = "sev-snp"  # whose machine the simulated one plays
    simulated_mount: str = ""  # where `lucid-agent simulate-tee` serves it; empty: in the process
    report_path: str = "/sys/kernel/config/tsm/report"
    helper: str = ""  # socket of `lucid-agent quote-helper`; none: the agent asks the kernel itself
    quote_seconds: Seconds = 60.0  # bound on one quote, retries included
    extend_rtmr3: bool = False  # TDX: measure every policy bundle that comes into force
    measurements_path: str = "/sys/devices/virtual/misc/tdx_guest/measurements"


class KdsTable(_Table, frozen=True):
    """`[kds]`: certificates that the host does not supply, from AMD's key distribution service."""

    fetch: bool = False  # True: the agent asks kdsintf.amd.com, and keeps what it got in state_dir
    offline: str = ""  # a directory with what the service has; nothing is fetched then


class PcsTable(_Table, frozen=True):
    """`[pcs]`: what Intel publishes about this platform, needed for TDX quotes."""

    fetch: bool = False  # True: the agent asks Intel's service, and keeps what it got in state_dir
    offline: str = ""  # a directory with what the service has; nothing is fetched then
    url: str = BASE_URL  # or a cache inside the data centre (PCCS)
    root_crl_url: str = ROOT_CRL_URL  # of PCCS: URL/sgx/certification/v4/rootcacrl
    early: bool = False  # TCB infos as soon as they are published


class PassportTable(_Table, frozen=True):
    """`[passport]`: what is issued."""

    issuer: str = "lucid-agent"
    lifetime_seconds: Annotated[int, msgspec.Meta(ge=30, le=86_400)] = 900
    tenant: str = ""  # salts the public hardware id, so that tenants cannot be linked


class PolicyTable(_Table, frozen=True):
    """`[policy]`: what is enforced."""

    bundle: str = "/etc/lucid/bundle"
    trusted_keys: tuple[str, ...] = ()  # PEM files: whose bundle signatures count
    require_signature: bool = False  # True: a bundle without one is refused
    # How often the bundle's folder is looked at; 0: only at the start and on SIGHUP.
    watch_seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 2.0
    push: bool = True  # whether `lucid policy push` may change the bundle
    shadow: str = ""  # a candidate that is asked beside the bundle, without effect


class LimitsTable(_Table, frozen=True):
    """`[gateway.limits]`: sizes in bytes, times in seconds."""

    head_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1024 * 1024)] = 32 * 1024
    header_count: Annotated[int, msgspec.Meta(ge=8, le=1000)] = 100
    body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=256 * 1024 * 1024)] = 8 * 1024 * 1024
    reply_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1024 * 1024 * 1024)] = 64 * 1024 * 1024
    connections: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 1024
    head_seconds: Seconds = 10.0
    body_seconds: Seconds = 60.0
    handshake_seconds: Seconds = 10.0
    idle_seconds: Seconds = 75.0
    connect_seconds: Seconds = 5.0
    first_byte_seconds: Seconds = 120.0
    upstream_idle_seconds: Seconds = 60.0
    send_seconds: Seconds = 60.0


class GatewayTable(_Table, frozen=True):
    """`[gateway]`: the door in front of the model server."""

    listen: str = "127.0.0.1:8080"
    upstream: str = "http://127.0.0.1:8000"
    require_valid_passport: bool = True
    limits: LimitsTable = LimitsTable()
    tls: TlsTable = TlsTable()


class IdentityKey(_Table, frozen=True):
    """One `[[identity.keys]]`: a client's API key, as the SHA-256 of its bytes."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    type: Literal["User", "Agent", "APIKey"] = "User"
    groups: tuple[str, ...] = ()  # of a User; beside those of the bundle's entities.json


class TokensTable(_Table, frozen=True):
    """One `[[identity.tokens]]`: whose JSON Web Tokens are believed, and what of them.

    `keys`: the issuer's public keys as a JWK Set, in a file or at an https:// address; both are
    read again while the agent runs.
    """

    issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    audience: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    keys: str
    algorithms: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("RS256", "ES256")
    type: Literal["User", "Agent", "APIKey"] = "User"
    principal_claim: str = "sub"
    groups_claim: str = "groups"  # "" reads none
    leeway_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30.0
    refresh_seconds: Annotated[float, msgspec.Meta(ge=30, le=86_400)] = 300.0


class IdentityTable(_Table, frozen=True):
    """`[identity]`: who may ask."""

    anonymous: bool = False  # True: requests without a known key are User::"anonymous"
    keys: tuple[IdentityKey, ...] = ()
    keys_file: str = ""  # more of them, one a line: NAME SHA256
    tokens: tuple[TokensTable, ...] = ()


class AuditorTable(_Table, frozen=True):
    """One `[[auditors]]`: a service that gives claims (`source = "auditor:NAME"` in the bundle).

    Times are in seconds. After `failures` in a row it is left alone for `pause_seconds`, and twice
    as long each time that it fails again, up to `longest_pause_seconds`.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    url: str  # http://ADDRESS:PORT, or unix:/path/of/socket
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.5
    start_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 30.0  # to be ready at start
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    text_characters: Annotated[int, msgspec.Meta(ge=1, le=64 * 1024 * 1024)] = 1024 * 1024
    answer_bytes: Annotated[int, msgspec.Meta(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024
    failures: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    pause_seconds: Seconds = 1.0
    longest_pause_seconds: Seconds = 30.0
    # The contract's auditor_config, sent with every question.
    config: dict[str, Any] = msgspec.field(default_factory=dict)


class JournalTable(_Table, frozen=True):
    """`[journal]`: the record of decisions."""

    on_failure: Literal["deny", "allow"] = "deny"
    max_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 10 * 1024**3
    keep_days: Annotated[int, msgspec.Meta(ge=0, le=36_500)] = 30


class ObserverTable(_Table, frozen=True):
    """`[observer]`: where decisions are streamed. No target: they stay in the journal."""

    target: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    insecure: bool = False  # plaintext to an address that is not loopback


class ApiTable(_Table, frozen=True):
    """`[api]`: the local Unix socket, and what is told without it."""

    socket: str = "/run/lucid/agent.sock"
    listen: str = ""  # ADDRESS:PORT: /healthz, /readyz and /metrics for whoever asks; none: nobody


class Config(_Table, frozen=True):
    """The whole file."""

    agent: AgentTable = AgentTable()
    tee: TeeTable = TeeTable()
    kds: KdsTable = KdsTable()
    pcs: PcsTable = PcsTable()
    passport: PassportTable = PassportTable()
    policy: PolicyTable = PolicyTable()
    gateway: GatewayTable = GatewayTable()
    identity: IdentityTable = IdentityTable()
    auditors: tuple[AuditorTable, ...] = ()
    journal: JournalTable = JournalTable()
    observer: ObserverTable = ObserverTable()
    api: ApiTable = ApiTable()


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file (or none), apply the variables, check everything.

    Raises:
        ConfigError: with every problem found.
    """
    data = _read(path) if path is not None else {}
    problems = list(_unknown_keys(Config, data, ""))
    problems += _apply_environment(data, environ)
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error))) from None
    if not config.agent.id:
        named = msgspec.structs.replace(config.agent, id=_host_name())
        config = msgspec.structs.replace(config, agent=named)
    if problems := _cross_check(config):
        raise ConfigError("\n".join(problems))
    return _with_absolute_paths(config, path.parent if path is not None else Path(), environ)


def parse_address(text: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` as (host, port); the host is an IP address.

    Raises:
        ValueError: neither form.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not ADDRESS:PORT, for example 127.0.0.1:8080")
    host = "127.0.0.1" if host == "localhost" else host
    return str(ipaddress.ip_address(host)), int(port)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_SIZE:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_SIZE} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _subtable(hint: object) -> type[_Table] | None:
    return hint if isinstance(hint, type) and issubclass(hint, _Table) else None


def _unknown_keys(table: type[_Table], data: Mapping[str, Any], prefix: str) -> list[str]:
    hints = get_type_hints(table)
    problems = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            problems.append(f"{name}: unknown key{hint}")
        elif (sub := _subtable(hints[key])) is not None and isinstance(value, dict):
            problems += _unknown_keys(sub, value, f"{name}.")
    return problems


def _known_variables(table: type[_Table], path: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    known: dict[str, tuple[str, ...]] = {}
    for key, hint in get_type_hints(table).items():
        sub = _subtable(hint)
        if sub is not None:
            known |= _known_variables(sub, (*path, key))
        elif key not in _LISTS:  # a list has no single value
            known[ENV_PREFIX + "_".join((*path, key)).upper()] = (*path, key)
    return known


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    known = _known_variables(Config, ())
    problems = []
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in NOT_CONFIGURATION:
            continue
        if name not in known and _OTHERS.fullmatch(name):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{name}: unknown variable{hint}")
            continue
        *tables, key = known[name]
        target = data
        for table in tables:
            target = target.setdefault(table, {})
        try:
            target[key] = _from_text(environ[name], Config, known[name])
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return problems


def _from_text(text: str, table: type[_Table], path: tuple[str, ...]) -> object:
    *tables, key = path
    for name in tables:
        sub = _subtable(get_type_hints(table)[name])
        if sub is None:  # pragma: no cover - the path comes from _known_variables
            raise ValueError("not a table")
        table = sub
    hint = get_type_hints(table, include_extras=True)[key]
    try:
        return msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(_readable(str(error))) from None


def _readable(message: str) -> str:
    text, _, place = message.partition(" - at `$")
    return f"{place.rstrip('`').lstrip('.')}: {text}" if place else text


def _with_absolute_paths(config: Config, base: Path, environ: Mapping[str, str]) -> Config:
    def absolute(text: str) -> str:
        return str((base / text).absolute()) if text else ""

    def secret(text: str) -> str:
        try:
            credential = resolve(text, environ)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return absolute(text) if credential is None else str(credential)

    replace = msgspec.structs.replace
    return replace(
        config,
        agent=replace(config.agent, state_dir=absolute(config.agent.state_dir)),
        tee=replace(
            config.tee,
            simulated_mount=absolute(config.tee.simulated_mount),
            helper=absolute(config.tee.helper),
        ),
        kds=replace(config.kds, offline=absolute(config.kds.offline)),
        pcs=replace(config.pcs, offline=absolute(config.pcs.offline)),
        policy=replace(
            config.policy,
            bundle=absolute(config.policy.bundle),
            shadow=absolute(config.policy.shadow),
            trusted_keys=tuple(absolute(path) for path in config.policy.trusted_keys),
        ),
        gateway=replace(
            config.gateway,
            tls=replace(
                config.gateway.tls,
                certificate_file=secret(config.gateway.tls.certificate_file),
                key_file=secret(config.gateway.tls.key_file),
                client_crl_file=absolute(config.gateway.tls.client_crl_file),
                trust_domains={
                    name: secret(path) for name, path in config.gateway.tls.trust_domains.items()
                },
            ),
        ),
        api=replace(config.api, socket=absolute(config.api.socket)),
        observer=replace(
            config.observer,
            ca_file=secret(config.observer.ca_file),
            certificate_file=secret(config.observer.certificate_file),
            key_file=secret(config.observer.key_file),
        ),
        identity=replace(
            config.identity,
            keys_file=secret(config.identity.keys_file),
            tokens=tuple(
                table if "://" in table.keys else replace(table, keys=absolute(table.keys))
                for table in config.identity.tokens
            ),
        ),
    )


def _host_name() -> str:
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return name.strip(".-_")[:64] or "lucid-agent"


def _cross_check(config: Config) -> list[str]:
    problems = []
    for name, address in (("gateway", config.gateway.listen), ("api", config.api.listen)):
        try:
            if address or name == "gateway":
                parse_address(address)
        except ValueError as error:
            problems.append(f"{name}.listen: {error}")
    upstream = urlsplit(config.gateway.upstream)
    if upstream.scheme != "http" or not upstream.hostname or upstream.path not in ("", "/"):
        problems.append(
            "gateway.upstream: must be http://ADDRESS:PORT without a path"
            " (the model server stands beside the agent, inside the confidential VM)"
        )
    for name, url in (("url", config.pcs.url), ("root_crl_url", config.pcs.root_crl_url)):
        try:
            check_url(url, "PCS")
        except ValueError as error:
            problems.append(f"pcs.{name}: {error}")
    if config.tee.simulated_mount and config.tee.mode != "simulated":
        problems.append(
            f"tee.simulated_mount: is for mode 'simulated' alone; the mode is {config.tee.mode!r}"
        )
    if config.tee.extend_rtmr3 and config.tee.mode not in ("auto", "tdx"):
        problems.append(
            f"tee.extend_rtmr3: there is no such register with mode {config.tee.mode!r}"
        )
    identity, tls = config.identity, config.gateway.tls
    problems += tls.problems()
    shows = identity.keys or identity.keys_file or identity.tokens or tls.names_callers
    if not (identity.anonymous or shows):
        problems.append(
            "identity: nobody could ask: add [[identity.keys]] with name and sha256,"
            " name a keys_file, add [[identity.tokens]], let clients show certificates"
            " ([gateway.tls]), or set identity.anonymous = true"
        )
    if config.policy.require_signature and not config.policy.trusted_keys:
        problems.append("policy.require_signature: needs policy.trusted_keys to check with")
    problems += _token_problems(identity.tokens)
    problems += _auditor_problems(config)
    observer = config.observer
    if bool(observer.certificate_file) != bool(observer.key_file):
        problems.append("observer: certificate_file and key_file go together")
    return problems


def _auditor_problems(config: Config) -> list[str]:
    problems = []
    named: set[str] = set()
    for auditor in config.auditors:
        if auditor.name in named:
            problems.append(f"auditors: two are called {auditor.name!r}")
        named.add(auditor.name)
        try:
            AuditorSettings(name=auditor.name, url=auditor.url).address  # noqa: B018 - only tried
        except ValueError as error:
            problems.append(f"auditors: {auditor.name}: url: {error}")
    return problems


def _token_problems(tables: tuple[TokensTable, ...]) -> list[str]:
    problems = []
    issuers: set[str] = set()
    for table in tables:
        place = f"identity.tokens: {table.issuer}"
        if table.issuer in issuers:
            problems.append(f"{place}: stands there twice")
        issuers.add(table.issuer)
        problems += [
            f"{place}: the algorithm {name!r} is not accepted; known: {', '.join(ALGORITHMS)}"
            for name in table.algorithms
            if name not in ALGORITHMS
        ]
        if table.groups_claim and table.type != "User":
            problems.append(f'{place}: only users have groups; write groups_claim = ""')
        if "://" in table.keys:
            try:
                check_keys_url(table.keys)
            except ValueError as error:
                problems.append(f"{place}: keys: {error}")
    return problems
