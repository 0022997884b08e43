"""The files of [gateway.tls]: what is refused, what changes while the agent runs, what is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.config import TlsTable
from agent.errors import ExitCode, FatalError
from agent.gateway.gateway_tls import LOOK_SECONDS, GatewayTls
from agent.gateway.tls_files import MAX_AUTHORITIES, TlsFilesError, load
from tests.pki import (
    DOMAIN,
    HOUR,
    Cert,
    as_pem,
    authority,
    make,
    named_by_bits,
    revoked,
    version_2,
)

ROOT = authority()
GATEWAY = make("gateway", hosts=("gateway.example",))
NEWER = make("gateway", hosts=("gateway.example",), ends=2 * HOUR)
NOW = GATEWAY.certificate.not_valid_before_utc.timestamp() + 3600


@pytest.fixture
def table(tmp_path: Path) -> TlsTable:
    GATEWAY.write(tmp_path, "gateway")
    (tmp_path / "trust.pem").write_bytes(ROOT.pem)
    (tmp_path / "crl.pem").write_bytes(revoked(ROOT))
    return TlsTable(
        certificate_file=f"{tmp_path}/gateway.pem",
        key_file=f"{tmp_path}/gateway.key",
        client="required",
        trust_domains={DOMAIN: f"{tmp_path}/trust.pem"},
        client_crl_file=f"{tmp_path}/crl.pem",
    )


def test_good_files_are_taken(table: TlsTable) -> None:
    loaded = load(table, now=NOW)
    assert loaded.ends == GATEWAY.certificate.not_valid_after_utc.timestamp()
    assert loaded.subject == "CN=gateway"
    assert loaded.authorities == 1


def test_a_chain_ends_with_its_first_end(table: TlsTable, tmp_path: Path) -> None:
    middle = authority("middle", ROOT, ends=HOUR / 2)
    make("gateway", middle, hosts=("gateway.example",), send=(middle,)).write(tmp_path, "gateway")
    assert load(table, now=NOW).ends == middle.certificate.not_valid_after_utc.timestamp()


def pem(key: rsa.RSAPrivateKey | dsa.DSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encrypted(cert: Cert) -> bytes:
    form = PrivateFormat.PKCS8
    return cert.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))


FOR_CLIENTS = (ExtendedKeyUsageOID.CLIENT_AUTH,)
BROKEN = as_pem(b"\0\0\0")
CRL_V3 = (bytes.fromhex("02010130"), bytes.fromhex("02010230"))  # version 2 is written as 1
LIST = x509.load_pem_x509_crl(revoked(ROOT, GATEWAY)).public_bytes(Encoding.DER)
# The X.509 library reads an issuer only when it is asked for one.
LIST_OF_NOBODY = x509.load_pem_x509_crl(revoked(ROOT)).public_bytes(Encoding.DER)
LIST_OF_NOBODY = LIST_OF_NOBODY.replace(b"\x0c\x09authority", b"\x03\x09authority")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gateway.pem", None, "gateway.pem: cannot be read: No such file"),
        ("gateway.pem", b"", "no PEM certificate"),
        ("gateway.pem", b"hello", "no PEM certificate"),
        ("gateway.pem", BROKEN, "no PEM certificate, or one that cannot be read"),
        ("gateway.pem", as_pem(version_2(GATEWAY.der)), "or one that cannot be read"),
        ("gateway.pem", as_pem(named_by_bits(GATEWAY.der, "gateway")), "subject cannot be"),
        ("gateway.pem", b"x" * (1024 * 1024 + 1), "larger than"),
        ("gateway.pem", NEWER.pem, "gateway.key: is not the key of the first certificate"),
        ("gateway.pem", make("x", ends=-HOUR / 2).pem, "is not the key"),
        ("gateway.key", None, "gateway.key: cannot be read: No such file"),
        ("gateway.key", b"", "no PEM private key"),
        ("gateway.key", GATEWAY.pem, "no PEM private key"),
        ("gateway.key", NEWER.key_pem, "is not the key"),
        ("gateway.key", encrypted(GATEWAY), "is encrypted"),
        ("gateway.key", pem(rsa.generate_private_key(65537, 1024)), "2048 bits or more"),
        ("gateway.key", pem(dsa.generate_private_key(2048)), "none of RSA, EC, Ed25519"),
        ("trust.pem", None, "trust.pem: cannot be read"),
        ("trust.pem", b"", "no PEM certificate"),
        ("trust.pem", as_pem(version_2(ROOT.der)), "or one that cannot be read"),
        ("trust.pem", ROOT.pem + GATEWAY.pem, "certificate 2 is not an authority's"),
        ("trust.pem", authority("old", ends=-HOUR / 2).pem, "every authority in it has ended"),
        ("trust.pem", ROOT.pem * (MAX_AUTHORITIES + 1), "more than"),
        ("crl.pem", None, "crl.pem: cannot be read"),
        ("crl.pem", ROOT.pem, "no PEM list of revoked certificates"),
        ("crl.pem", revoked(ROOT) + revoked(ROOT)[:-9], "a PEM list that cannot be read"),
        ("crl.pem", revoked(ROOT) + authority("other").pem, "has a certificate beside its lists"),
        ("crl.pem", BROKEN.replace(b"CERTIFICATE", b"X509 CRL"), "a PEM list that cannot be read"),
        ("crl.pem", as_pem(named_by_bits(LIST, "authority"), "X509 CRL"), "PEM list that cannot"),
        ("crl.pem", as_pem(LIST_OF_NOBODY, "X509 CRL"), "crl.pem: OpenSSL refuses it"),
        ("crl.pem", as_pem(LIST.replace(*CRL_V3), "X509 CRL"), "a PEM list that cannot be read"),
        ("crl.pem", revoked(ROOT, ends=-HOUR / 2), "the list has ended"),
    ],
)
def test_what_cannot_be_used_is_refused_and_named(
    table: TlsTable, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TlsFilesError, match=said) as info:
        load(table, now=NOW)
    assert "PRIVATE" not in str(info.value)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (make("old", ends=-HOUR / 2), "the certificate has ended"),
        (make("new", begins=HOUR / 2), "is valid only from"),
        (make("mute", signs=False), r"not for signing \(digitalSignature\)"),
        (make("app", usage=FOR_CLIENTS), r"not for servers \(serverAuth\)"),
    ],
)
def test_a_certificate_that_clients_would_refuse_is_refused(
    table: TlsTable, tmp_path: Path, made: Cert, said: str
) -> None:
    made.write(tmp_path, "gateway")
    with pytest.raises(TlsFilesError, match=said):
        load(table, now=NOW)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o666, 0o777])
def test_a_key_that_others_may_read_or_write_is_refused(
    table: TlsTable, tmp_path: Path, mode: int
) -> None:
    (tmp_path / "gateway.key").chmod(mode)
    with pytest.raises(TlsFilesError, match=r"others may read or write the key: chmod 06[04]0"):
        load(table, now=NOW)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
@pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's only where root made them")
def test_a_group_may_read_a_key_of_root(table: TlsTable, tmp_path: Path, mode: int) -> None:
    (tmp_path / "gateway.key").chmod(mode)
    load(table, now=NOW)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_of_somebody_else_is_refused(table: TlsTable, tmp_path: Path) -> None:
    os.chown(tmp_path / "gateway.key", 4242, 4242)
    with pytest.raises(TlsFilesError, match="belongs to another user"):
        load(table, now=NOW)


def test_a_folder_is_no_file(table: TlsTable, tmp_path: Path) -> None:
    (tmp_path / "gateway.pem").unlink()
    (tmp_path / "gateway.pem").mkdir()
    with pytest.raises(TlsFilesError, match=r"cannot be read|not a file"):
        load(table, now=NOW)


def test_a_pipe_does_not_hold_the_agent_up(table: TlsTable, tmp_path: Path) -> None:
    (tmp_path / "trust.pem").unlink()
    os.mkfifo(tmp_path / "trust.pem")
    with pytest.raises(TlsFilesError, match="not a file"):
        load(table, now=NOW)


# -- while the agent runs -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The virtual clock does not wait for them."""

    async def run_sync(call: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return call(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def test_an_agent_does_not_start_with_files_that_cannot_be_used(
    table: TlsTable, tmp_path: Path
) -> None:
    (tmp_path / "gateway.key").unlink()
    with pytest.raises(FatalError, match=r"gateway\.tls: .*gateway\.key: cannot be read") as info:
        GatewayTls(table, now=Clock())
    assert info.value.code is ExitCode.FAILED  # a helper may write them before the next start


def test_new_files_are_taken_when_they_have_come_to_rest(table: TlsTable, tmp_path: Path) -> None:
    async def scenario() -> None:
        tls = GatewayTls(table, now=Clock())
        told: list[str] = []
        tls.server.changed = lambda: told.append("changed")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.watch)
            await trio.sleep(LOOK_SECONDS * 10.5)
            assert told == []
            (tmp_path / "gateway.pem").write_bytes(NEWER.pem)  # its key has not come yet
            await trio.sleep(LOOK_SECONDS)
            NEWER.write(tmp_path, "gateway")
            await trio.sleep(LOOK_SECONDS)
            assert (told, tls.failures) == ([], 0)
            await trio.sleep(LOOK_SECONDS)
            assert (told, tls.loads, tls.failures) == (["changed"], 2, 0)
            nursery.cancel_scope.cancel()
        assert tls.loaded.ends == NEWER.certificate.not_valid_after_utc.timestamp()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def test_whoever_wishes_it_has_the_files_read_at_once(table: TlsTable, tmp_path: Path) -> None:
    async def scenario() -> None:
        tls = GatewayTls(table, now=Clock())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.watch)
            await trio.testing.wait_all_tasks_blocked()
            NEWER.write(tmp_path, "gateway")
            tls.reload_soon()
            await trio.testing.wait_all_tasks_blocked()
            assert tls.loads == 2
            nursery.cancel_scope.cancel()

    trio.run(scenario)


def test_broken_files_keep_the_old_ones_until_good_ones_come(
    table: TlsTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        tls = GatewayTls(table, now=Clock())
        before = tls.server.credentials
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.watch)
            (tmp_path / "trust.pem").write_bytes(b"")
            await trio.sleep(LOOK_SECONDS * 20)
            assert tls.server.credentials is before
            assert tls.failures == 1  # the same again is no news
            trouble = tls.trouble()
            assert trouble is not None
            assert trouble.code == "tls.refused"
            assert "trust.pem" in trouble.reason
            (tmp_path / "trust.pem").write_bytes(ROOT.pem)
            await trio.sleep(LOOK_SECONDS * 3)
            assert tls.trouble() is None
            assert tls.loads == 2
            nursery.cancel_scope.cancel()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    assert capsys.readouterr().out.count("tls.refused") <= 1


def test_a_certificate_that_is_not_valid_yet_is_taken_when_it_is(
    table: TlsTable, tmp_path: Path
) -> None:
    async def scenario() -> None:
        clock = Clock()
        tls = GatewayTls(table, now=clock)
        later = make("gateway", begins=HOUR / 2, ends=2 * HOUR)
        clock.now = later.certificate.not_valid_before_utc.timestamp() - 60
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.watch)
            later.write(tmp_path, "gateway")
            await trio.sleep(LOOK_SECONDS * 5)
            assert "is valid only from" in tls.problem
            clock.now += 60
            await trio.sleep(LOOK_SECONDS * 2)
            assert (tls.problem, tls.loads) == ("", 2)
            nursery.cancel_scope.cancel()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def _code(tls: GatewayTls) -> str:
    trouble = tls.trouble()
    return "" if trouble is None else trouble.code


def test_an_end_that_comes_near_is_said_and_one_that_has_come(table: TlsTable) -> None:
    clock = Clock()
    tls = GatewayTls(table, now=clock)
    ends, life = tls.loaded.ends, tls.loaded.ends - tls.loaded.begins
    codes: list[tuple[Callable[[], float], str]] = [
        (lambda: ends - 0.21 * life, ""),
        (lambda: ends - 0.19 * life, "tls.ending"),
        (lambda: ends, "tls.expired"),
    ]
    for instant, code in codes:
        clock.now = instant()
        assert _code(tls) == code
    assert tls.seconds_left() == 0


def test_of_a_long_life_the_last_week_is_near(table: TlsTable, tmp_path: Path) -> None:
    make("gateway", ends=365 * 24 * HOUR).write(tmp_path, "gateway")
    clock = Clock()
    alone = TlsTable(certificate_file=table.certificate_file, key_file=table.key_file)
    tls = GatewayTls(alone, now=clock)
    clock.now = tls.loaded.ends - 8 * 86_400
    assert _code(tls) == ""
    clock.now = tls.loaded.ends - 6 * 86_400
    assert _code(tls) == "tls.ending"


def test_a_trust_domain_without_an_authority_is_said(table: TlsTable, tmp_path: Path) -> None:
    (tmp_path / "trust.pem").write_bytes(authority("short", ends=HOUR / 2).pem)
    clock = Clock()
    tls = GatewayTls(table, now=clock)
    assert _code(tls) == ""
    clock.now = tls.loaded.authorities_end
    assert clock.now < tls.loaded.ends
    assert _code(tls) == "tls.authority_expired"


def test_a_list_of_revoked_certificates_that_has_ended_is_said(
    table: TlsTable, tmp_path: Path
) -> None:
    (tmp_path / "crl.pem").write_bytes(revoked(ROOT, ends=HOUR / 2))
    clock = Clock()
    tls = GatewayTls(table, now=clock)
    clock.now = tls.loaded.credentials.trust.revocation_ends - 1
    assert _code(tls) == ""
    clock.now += 1
    assert _code(tls) == "tls.revocation_ended"


def test_the_status_says_what_is_in_use_and_nothing_secret(table: TlsTable) -> None:
    tls = GatewayTls(table, now=Clock())
    tls.server.metrics.failures[("expired",)] = 2
    said = tls.as_json()
    assert said["certificate"]["sha256"] == tls.loaded.fingerprint
    assert said["certificate"]["seconds_left"] == round(tls.loaded.ends - NOW)
    assert said["client"] == "required"
    assert said["trust_domains"] == [DOMAIN]
    assert said["handshake_failures"] == {"expired": 2}
    assert "PRIVATE" not in repr(said)
