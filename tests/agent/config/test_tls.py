"""`[gateway.tls]`: what fits together, and what `check-config` says of its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.config import ConfigError, load_config
from tests.pki import DOMAIN, HOUR, authority, make
from tests.processes import BUNDLE

OPEN = "[identity]\nanonymous = true\n"
FILES = 'certificate_file = "a.pem"\nkey_file = "a.key"\n'
TRUST = 'trust_domains = { "example.org" = "trust.pem" }\n'


def write(folder: Path, tls: str, identity: str = OPEN) -> Path:
    path = folder / "agent.toml"
    path.write_text(f"{identity}[gateway.tls]\n{tls}", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ('certificate_file = "a.pem"\n', "certificate_file and key_file go together"),
        ('key_file = "a.key"\n', "certificate_file and key_file go together"),
        (f'client = "required"\n{TRUST}', "nothing of it has an effect without certificate_file"),
        (f'{FILES}client = "required"\n', 'client = "required" needs trust_domains'),
        (f'{FILES}client = "optional"\n', 'client = "optional" needs trust_domains'),
        (FILES + TRUST, "are about client certificates"),
        (f'{FILES}client_crl_file = "x.crl"\n', "are about client certificates"),
        (f'{FILES}client = "maybe"\n', "client"),
        (f'{FILES}minimum_version = "1.1"\n', "minimum_version"),
        (f'{FILES}caller = "both"\n', "caller"),
        (f'{FILES}client = "required"\ntrust_domains = {{ "Example.org" = "x" }}\n', "Example.org"),
        (f'{FILES}client = "required"\ntrust_domains = {{ "spiffe://a" = "x" }}\n', "spiffe://a"),
        (f'{FILES}client = "required"\ntrust_domains = "x"\n', "trust_domains"),
        (f'{FILES}client_ca = "x"\n', "gateway.tls.client_ca: unknown key"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, tls: str, said: str) -> None:
    with pytest.raises(ConfigError) as info:
        load_config(write(tmp_path, tls), {})
    assert said in str(info.value)


def test_without_the_table_the_gateway_speaks_plain_http(tmp_path: Path) -> None:
    assert not load_config(write(tmp_path, ""), {}).gateway.tls.wanted


@pytest.mark.parametrize(
    ("more", "fine"),
    [
        (f'client = "required"\n{TRUST}', True),
        (f'client = "optional"\n{TRUST}', True),
        (f'client = "required"\ncaller = "either"\n{TRUST}', True),
        (f'client = "required"\ncaller = "credential"\n{TRUST}', False),
        ("", False),
    ],
)
def test_certificates_can_be_all_that_clients_show(
    tmp_path: Path, more: str, *, fine: bool
) -> None:
    path = write(tmp_path, FILES + more, identity="")
    if fine:
        load_config(path, {})
    else:
        with pytest.raises(ConfigError, match="nobody could ask"):
            load_config(path, {})


def test_files_are_relative_to_the_configuration_or_credentials(tmp_path: Path) -> None:
    text = (
        'certificate_file = "tls/a.pem"\nkey_file = "credential:gateway.key"\n'
        f'client = "required"\n{TRUST}client_crl_file = "a.crl"\n'
    )
    tls = load_config(write(tmp_path, text), {"CREDENTIALS_DIRECTORY": "/given"}).gateway.tls
    assert tls.certificate_file == f"{tmp_path}/tls/a.pem"
    assert tls.key_file == "/given/gateway.key"
    assert tls.client_crl_file == f"{tmp_path}/a.crl"
    assert tls.trust_domains == {DOMAIN: f"{tmp_path}/trust.pem"}


def test_variables_name_the_files_too(tmp_path: Path) -> None:
    environ = {
        "LUCID_GATEWAY_TLS_CERTIFICATE_FILE": "/x.pem",
        "LUCID_GATEWAY_TLS_KEY_FILE": "/x.key",
    }
    assert load_config(write(tmp_path, ""), environ).gateway.tls.certificate_file == "/x.pem"


# -- check-config ---------------------------------------------------------------------------------


def checked(folder: Path, more: str = "") -> tuple[int, str]:
    path = write(folder, FILES + more)
    with path.open("a") as file:
        file.write(f'[policy]\nbundle = "{BUNDLE}"\n')
    done = CliRunner().invoke(main, ["check-config", "--config", str(path)])
    return done.exit_code, done.output


def test_check_config_reads_the_files(tmp_path: Path) -> None:
    make("gateway").write(tmp_path, "a")
    authority().write(tmp_path, "trust")
    code, said = checked(tmp_path, f'client = "required"\n{TRUST}')
    assert code == 0
    assert "gateway: TLS with a certificate until 2" in said
    assert "client certificates: required" in said


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("a.pem", "a.pem: has no PEM certificate"),
        ("a.key", "a.key: has no PEM private key"),
        ("trust.pem", "trust.pem: has no PEM certificate"),
    ],
)
def test_check_config_names_the_file_that_cannot_be_used(
    tmp_path: Path, broken: str, said: str
) -> None:
    make("gateway").write(tmp_path, "a")
    authority().write(tmp_path, "trust")
    (tmp_path / broken).write_bytes(b"")
    code, output = checked(tmp_path, f'client = "required"\n{TRUST}')
    assert code == 2
    assert said in output


def test_check_config_says_that_a_certificate_ends_soon(tmp_path: Path) -> None:
    make("gateway", ends=HOUR / 60).write(tmp_path, "a")
    code, said = checked(tmp_path)
    assert code == 0
    assert "the certificate ends at" in said


def test_check_config_says_what_it_could_not_check(tmp_path: Path) -> None:
    path = write(tmp_path, FILES.replace("a.key", "credential:gateway.key"))
    with path.open("a") as file:
        file.write(f'[policy]\nbundle = "{BUNDLE}"\n')
    done = CliRunner().invoke(main, ["check-config", "--config", str(path)])
    assert done.exit_code == 0, done.output
    assert "gateway: TLS\n" in done.output
    assert "not checked here: /run/credentials/" in done.output
