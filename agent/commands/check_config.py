"""`lucid-agent check-config`: could the daemon start with this?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from agent.attesting.hardware_policy import hardware_policies, requires_crl
from agent.commands.common import config_option, load
from agent.commands.failing import fail
from agent.config import Config
from agent.credentials import DIRECTORY
from agent.errors import ExitCode, FatalError
from agent.gateway.gateway_tls import GatewayTls
from agent.gateway.tls_files import paths, utc
from agent.policy.policy_trust import trust_of
from agent.setup import identities, known_auditors, load_bundle, observer_target
from attestation.evidence import Format
from attestation.hardware import HardwarePolicy
from attestation.tdx.runtime_register import after
from enforcement.policy.bundle import Bundle
from enforcement.policy.bundle_files import SIGNATURE
from enforcement.policy.bundle_signature import Trust


@click.command("check-config")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the effective configuration as JSON.")
def check_config(path: Path | None, *, as_json: bool) -> None:
    """Check the configuration and the policy bundle without starting anything.

    Prints what is in effect, variables included. Of a configuration every wrong key and value is
    named at once, and of a bundle every problem.

    \b
    Exit codes:
      0  the daemon could start with it
      2  it could not
    """
    config = load(path)
    try:
        trust = trust_of(config.policy)
        bundle, _engine = load_bundle(Path(config.policy.bundle), trust)
        known_auditors(config, bundle)
        demands = hardware_policies(config.tee)
        unchecked = _credentials(config)
        if config.identity.keys_file not in unchecked:
            identities(config)
        tls = _tls(config, unchecked)
        observer = _observer(config, unchecked)
    except FatalError as error:
        fail(ExitCode.USAGE, str(error), error.remedy)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(config)).decode())
    else:
        click.echo(f"configuration: ok (agent {config.agent.id}, TEE mode {config.tee.mode})")
        click.echo(f"hardware policy: {_demands(config, demands)}")
        click.echo(f"policy bundle: ok ({bundle.name} {bundle.version}, {bundle.digest.hex()})")
        click.echo(f"bundle signature: {_signature(bundle, trust)}")
        click.echo(f"gateway: {tls}")
        click.echo(f"Observer: {observer}")
        for path_there in unchecked:
            click.echo(f"not checked here: {path_there} (only the service has its credentials)")
        if config.tee.extend_rtmr3:
            click.echo(f"RTMR3 with this bundle alone: {after([bundle.digest]).hex()}")


def _demands(config: Config, demands: Mapping[Format, HardwarePolicy] | None) -> str:
    """For which hardware there are any, and whether nobody may be able to meet them."""
    if demands is None:
        return "none"
    words = f"for {', '.join(demands)}"
    has_a_way = config.kds.fetch or config.kds.offline or config.tee.mode == "simulated"
    if requires_crl(demands) and not has_a_way:
        words += (
            "; it demands a revocation list of AMD's, which only the host could supply:"
            " [kds] fetch or offline gets one"
        )
    return words


def _credentials(config: Config) -> list[str]:
    """Files that only the running service is given."""
    observer = config.observer
    named = (config.identity.keys_file, observer.ca_file, observer.certificate_file)
    of_tls = map(str, paths(config.gateway.tls))
    return [text for text in (*named, observer.key_file, *of_tls) if Path(text).parent == DIRECTORY]


def _tls(config: Config, unchecked: list[str]) -> str:
    """What clients meet at the gateway.

    Raises:
        FatalError: the files of [gateway.tls] cannot be used.
    """
    table = config.gateway.tls
    if not table.wanted:
        return "plain HTTP"
    if set(map(str, paths(table))) & set(unchecked):
        return "TLS"
    tls = GatewayTls(table)
    concern = tls.trouble()
    return (
        f"TLS with a certificate until {utc(tls.loaded.ends)}, client certificates: {table.client}"
        + (f"; {concern.reason}" if concern else "")
    )


def _observer(config: Config, unchecked: list[str]) -> str:
    """How decisions get there.

    Raises:
        FatalError: plaintext to another machine, which was not asked for; a file that cannot be
            used.
    """
    if not config.observer.target:
        return "none, decisions stay in the journal"
    target = observer_target(config, unchecked)
    way = "TLS with a certificate of its own" if target.certificate else "TLS"
    return f"{target.address}, {way if target.ca else 'without TLS'}"


def _signature(bundle: Bundle, trust: Trust) -> str:
    if bundle.signer is not None:
        return f"by {bundle.signer.hex()}, a trusted key"
    if SIGNATURE not in bundle.files:
        return "none, and none is required"
    assert not trust.keys
    return "not checked, because no key is trusted (policy.trusted_keys)"
