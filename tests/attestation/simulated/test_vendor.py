"""The simulated vendor: real formats, private keys, and nobody mistakes it for hardware."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.anchors import TrustAnchors
from attestation.errors import QuoteError, VerificationError
from attestation.simulated import store
from attestation.simulated.report import SIMULATED_MEASUREMENT, ReportFields
from attestation.simulated.vendor import DIRECTORY, SimulatedVendor
from attestation.snp.abi import Report
from attestation.snp.certs import Chain
from attestation.snp.product import ProductLine
from attestation.snp.table import CertTable
from attestation.snp.verify import VerifiedReport, verify_report

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DATA = bytes(range(64))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


@pytest.fixture
def state(simulated_state: Path, tmp_path: Path) -> Path:
    """A copy of the state directory that a test may spoil."""
    copy = tmp_path / "state"
    shutil.copytree(simulated_state, copy)
    return copy


def load(state: Path, now: datetime = NOW) -> SimulatedVendor:
    return SimulatedVendor.load_or_create(state, now=now)


def error_of(state: Path, now: datetime = NOW) -> QuoteError:
    with pytest.raises(QuoteError) as caught:
        load(state, now)
    error = caught.value
    assert error.final
    assert error.remedy
    assert str(state) in str(error)
    return error


def verify(vendor: SimulatedVendor, report: bytes) -> VerifiedReport:
    return verify_report(
        report,
        Chain.from_table(CertTable.parse(vendor.certificate_table())),
        roots=TrustAnchors.builtin().with_simulated_root(vendor.root_certificate_pem()).simulated,
        now=NOW,
        expected_report_data=DATA,
    )


# --- what it makes


def test_its_reports_verify_like_real_ones(simulated_vendor: SimulatedVendor) -> None:
    verified = verify(simulated_vendor, simulated_vendor.sign_report(DATA))
    report = verified.report
    assert verified.product_line is ProductLine.GENOA
    assert report.version == 5
    assert report.report_data == DATA
    assert report.measurement == SIMULATED_MEASUREMENT
    assert report.chip_id == simulated_vendor.chip_id
    assert not report.debug
    assert not report.policy.migrate_ma
    assert report.vmpl == 0
    assert report.reported_tcb == report.launch_tcb == report.current_tcb == report.committed_tcb


def test_amds_roots_do_not_vouch_for_it(simulated_vendor: SimulatedVendor) -> None:
    with pytest.raises(VerificationError):
        verify_report(
            simulated_vendor.sign_report(DATA),
            Chain.from_table(CertTable.parse(simulated_vendor.certificate_table())),
            roots=TrustAnchors.builtin().amd,
            now=NOW,
            expected_report_data=DATA,
        )


def test_every_certificate_says_that_it_is_simulated(simulated_vendor: SimulatedVendor) -> None:
    for certificate in (
        simulated_vendor.root,
        simulated_vendor.intermediate,
        simulated_vendor.vcek,
    ):
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
            (attribute,) = certificate.subject.get_attributes_for_oid(oid)
            assert "SIMULATED" in str(attribute.value)


def test_the_measurement_can_be_set(simulated_state: Path) -> None:
    measurement = bytes(range(48))
    vendor = SimulatedVendor.load_or_create(simulated_state, now=NOW, measurement=measurement)
    assert verify(vendor, vendor.sign_report(DATA)).report.measurement == measurement


def test_the_report_id_is_the_same_for_one_guest(simulated_state: Path) -> None:
    one, other = load(simulated_state), load(simulated_state)
    ids = [Report.parse(vendor.sign_report(DATA)).report_id for vendor in (one, one, other)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_length_are_refused(
    simulated_vendor: SimulatedVendor, size: int
) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        simulated_vendor.sign_report(bytes(size))
    with pytest.raises(ValueError, match="64 bytes"):
        ReportFields(report_data=DATA, chip_id=bytes(size)).encode()


def test_secrets_are_not_shown(simulated_vendor: SimulatedVendor) -> None:
    assert "key=" not in repr(simulated_vendor)


# --- where it keeps its keys


def test_keys_are_private_and_loaded_again(state: Path) -> None:
    directory = state / DIRECTORY
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = sorted(directory.iterdir())
    assert len(files) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    one, other = load(state), load(state)
    assert one.root_sha256() == other.root_sha256()
    assert one.chip_id == other.chip_id
    assert one.root_certificate_pem() == (directory / "root.pem").read_bytes()


def test_nothing_is_left_beside_the_directory(simulated_state: Path) -> None:
    assert [path.name for path in simulated_state.iterdir()] == [DIRECTORY]


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o710, 0o770])
def test_a_directory_that_is_open_to_others_is_refused(state: Path, mode: int) -> None:
    (state / DIRECTORY).chmod(mode)
    assert error_of(state).code == "simulated.permissions"


@pytest.mark.parametrize("name", ["root.key", "vcek.key", "root.pem"])
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620])
def test_a_file_that_is_open_to_others_is_refused(state: Path, name: str, mode: int) -> None:
    (state / DIRECTORY / name).chmod(mode)
    error = error_of(state)
    assert error.code == "simulated.permissions"
    assert name in str(error)


@as_root
@pytest.mark.parametrize("name", ["", "root.key", "intermediate.key", "vcek.pem"])
def test_what_belongs_to_somebody_else_is_refused(state: Path, name: str) -> None:
    os.chown(state / DIRECTORY / name, 65534, -1)
    assert error_of(state).code == "simulated.permissions"


def test_links_are_not_followed(state: Path) -> None:
    directory = state / DIRECTORY
    moved = state / "moved"
    directory.rename(moved)
    directory.symlink_to(moved)
    assert error_of(state).code == "simulated.permissions"
    directory.unlink()
    moved.rename(directory)
    key = directory / "root.key"
    key.rename(directory / "moved.key")
    key.symlink_to(directory / "moved.key")
    assert error_of(state).code == "simulated.state"


def test_a_pipe_in_place_of_a_key_is_refused_without_waiting(state: Path) -> None:
    key = state / DIRECTORY / "root.key"
    key.unlink()
    os.mkfifo(key, 0o600)
    assert error_of(state).code == "simulated.permissions"


def test_a_missing_file_is_named(state: Path) -> None:
    (state / DIRECTORY / "vcek.key").unlink()
    error = error_of(state)
    assert error.code == "simulated.state"
    assert "vcek.key" in str(error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("root.key", b""),
        ("vcek.key", b"not a key"),
        ("root.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("vcek.pem", b"\0" * 100),
        ("vcek.pem", b"x" * (store.MAX_FILE_SIZE + 1)),
    ],
)
def test_a_damaged_file_is_refused_and_never_replaced(
    state: Path, name: str, content: bytes
) -> None:
    (state / DIRECTORY / name).write_bytes(content)
    assert error_of(state).code == "simulated.damaged"
    assert (state / DIRECTORY / name).read_bytes() == content


def test_files_that_do_not_belong_together_are_refused(state: Path) -> None:
    directory = state / DIRECTORY
    swapped = (directory / "root.key").read_bytes()
    (directory / "vcek.key").write_bytes(swapped)
    assert error_of(state).code == "simulated.damaged"


def test_certificates_that_do_not_belong_together_are_refused(state: Path) -> None:
    directory = state / DIRECTORY
    (directory / "intermediate.pem").write_bytes((directory / "root.pem").read_bytes())
    assert error_of(state).code == "simulated.damaged"


@pytest.mark.parametrize("years", [-1, 30])
def test_a_vendor_outside_its_validity_is_refused(state: Path, years: int) -> None:
    error = error_of(state, NOW + timedelta(days=366 * years))
    assert error.code == "simulated.damaged"
    assert "clock" in error.remedy


@pytest.mark.parametrize("below", [".", "sub/directory"])
def test_a_state_directory_that_cannot_be_written_is_named(
    tmp_path: Path, simulated_vendor: SimulatedVendor, below: str
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(QuoteError) as caught:
        store.create(blocked / below / DIRECTORY, simulated_vendor.files())
    assert caught.value.code == "simulated.state"
    assert caught.value.errno
    assert str(blocked) in str(caught.value)
    assert "agent.state_dir" in caught.value.remedy


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).write_text("in the way")
    assert error_of(tmp_path).code == "simulated.permissions"


def test_a_directory_that_came_to_exist_meanwhile_is_left_as_it_is(
    state: Path, simulated_vendor: SimulatedVendor
) -> None:
    before = store.load(state / DIRECTORY, ["root.key"])
    store.create(state / DIRECTORY, {"root.key": b"another"})
    assert store.load(state / DIRECTORY, ["root.key"]) == before
    assert [path.name for path in state.iterdir()] == [DIRECTORY]


def test_of_several_that_create_at_once_one_wins(
    tmp_path: Path, simulated_vendor: SimulatedVendor
) -> None:
    files = simulated_vendor.files()
    start = threading.Barrier(4)

    def create(number: int) -> None:
        start.wait(10)
        store.create(tmp_path / DIRECTORY, files | {"who": bytes((number,))})

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [path.name for path in tmp_path.iterdir()] == [DIRECTORY]
    assert load(tmp_path).root_sha256() == simulated_vendor.root_sha256()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(QuoteError):
        store.create(tmp_path / DIRECTORY, {"good": b"1", "no/such/place": b"2"})
    assert list(tmp_path.iterdir()) == []


def test_the_root_certificate_is_one_pem_certificate(simulated_vendor: SimulatedVendor) -> None:
    (root,) = x509.load_pem_x509_certificates(simulated_vendor.root_certificate_pem())
    assert root == simulated_vendor.root
    assert root.issuer == root.subject
