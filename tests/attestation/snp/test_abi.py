"""The report's layout, against real reports and against every way to bend it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError, UncheckableError
from attestation.simulated.report import ReportFields
from attestation.snp.abi import REPORT_SIZE, PlatformInfo, Policy, Report
from attestation.snp.product import EndorsementKey, ProductLine, Tcb, product_line
from tests.attestation.snp.conftest import SnpVectors

GOOD = ReportFields(report_data=bytes(range(64)), chip_id=bytes(range(64))).encode()


def altered(offset: int, value: bytes, report: bytes = GOOD) -> bytes:
    return report[:offset] + value + report[offset + len(value) :]


def as_version(version: int) -> bytes:
    """GOOD without what an older version has not."""
    report = altered(0, version.to_bytes(4, "little"))
    if version < 5:
        report = altered(0x1F8, bytes(16), report)
    if version < 3:
        report = altered(0x188, bytes(3), report)
    return report


def code_of(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        Report.parse(data)
    return caught.value.code


# --- real reports


def test_every_field_of_every_real_report_is_what_was_decoded_independently(
    snp: SnpVectors,
) -> None:
    seen: Counter[int] = Counter()
    for known in snp.reports:
        if known["ver"] == 1:
            continue
        report = Report.parse(snp.report(known["h"]))
        seen[report.version] += 1
        assert report.version == known["ver"]
        assert report.policy.raw == known["policy"]
        assert report.vmpl == known["vmpl"]
        key = {0: EndorsementKey.VCEK, 4: EndorsementKey.VLEK}[known["si"]]
        assert report.signing_key is key
        assert not report.author_key_en
        assert not report.mask_chip_key
        assert report.platform_info.raw == known["pinfo"]
        for found, name in (
            (report.reported_tcb, "rtcb"),
            (report.current_tcb, "ctcb"),
            (report.committed_tcb, "comm"),
            (report.launch_tcb, "launch"),
            (report.chip_id, "chip"),
            (report.report_data, "rd"),
            (report.measurement, "meas"),
            (report.host_data, "host"),
            (report.id_key_digest, "idk"),
            (report.author_key_digest, "ak"),
            (bytes(report.cpuid or (0, 0, 0)), "fms"),
            ((report.launch_mit_vector or 0).to_bytes(8, "little"), "lmit"),
            ((report.current_mit_vector or 0).to_bytes(8, "little"), "cmit"),
        ):
            assert found.hex() == known[name], name
        for version, name in ((report.current_version, "cur"), (report.committed_version, "cv")):
            assert bytes((version.build, version.minor, version.major)).hex() == known[name]
        assert (report.cpuid is None) == (report.version == 2)
        assert (report.launch_mit_vector is None) == (report.version < 5)
        assert report.signed_bytes + report.raw[0x2A0:] == report.raw
    assert set(seen) == {2, 3, 5}


def test_forged_version_1_reports_are_refused(snp: SnpVectors) -> None:
    forged = [known["h"] for known in snp.reports if known["ver"] == 1]
    assert len(forged) == 3
    assert {code_of(snp.report(name)) for name in forged} == {"snp.report.version"}


def test_the_tcb_of_every_real_case_decodes_to_its_certified_levels(snp: SnpVectors) -> None:
    lines = set()
    for case in snp.cases:
        report = Report.parse(snp.report(case["report"]))
        line = ProductLine(case["product_ext"].split("-")[0])
        assert report.product_line in (None, line)
        tcb = Tcb.decode(report.reported_tcb, line)
        known = case["tcb"]
        assert (tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode) == (
            known["bl"],
            known["tee"],
            known["snp"],
            known["uc"],
        )
        assert (tcb.fmc is not None) == (line is ProductLine.TURIN)
        assert tcb.encode(line) == report.reported_tcb
        lines.add(line)
    assert lines == set(ProductLine)


def test_a_debug_guest_and_unknown_platform_bits_are_visible(snp: SnpVectors) -> None:
    assert Report.parse(snp.report("377e6241d3b373ab")).debug
    assert not Report.parse(snp.report("19ade1287746f6fb")).debug
    turin = Report.parse(snp.report("56b3ee54977c2602"))
    assert turin.platform_info.unknown == 1 << 6
    assert turin.platform_info.alias_check_complete


# --- what is refused


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_each_known_version_is_read(version: int) -> None:
    report = Report.parse(as_version(version))
    assert report.version == version
    assert (report.cpuid is None) == (version == 2)
    assert (report.current_mit_vector is None) == (version < 5)


@pytest.mark.parametrize("version", [0, 1, 6, 7, 0xFFFF_FFFF])
def test_an_unknown_version_is_refused(version: int) -> None:
    assert code_of(altered(0, version.to_bytes(4, "little"))) == "snp.report.version"


@pytest.mark.parametrize("size", [0, 1, 0x2A0, REPORT_SIZE - 1, REPORT_SIZE + 1, 4000])
def test_a_report_of_another_length_is_refused(size: int) -> None:
    assert code_of((GOOD * 4)[:size]) == "snp.report.length"


def _reserved_bytes() -> list[tuple[int, int]]:
    always = [
        *range(0x04C, 0x050),
        *range(0x18B, 0x1A0),
        0x1EB,
        0x1EF,
        *range(0x208, 0x2A0),
        *range(0x2A0 + 48, 0x2A0 + 72),
        *range(0x2E8 + 48, 0x2E8 + 72),
        *range(0x330, REPORT_SIZE),
    ]
    return [
        *((5, offset) for offset in always),
        *((4, offset) for offset in range(0x1F8, 0x208)),
        *((3, offset) for offset in range(0x1F8, 0x208)),
        *((2, offset) for offset in range(0x188, 0x18B)),
    ]


def test_a_report_with_any_nonzero_reserved_byte_is_refused() -> None:
    for version, offset in _reserved_bytes():
        for value in (b"\x01", b"\x80"):
            bent = altered(offset, value, as_version(version))
            assert code_of(bent) == "snp.report.reserved", hex(offset)


@pytest.mark.parametrize("bit", [5, 6, 15, 31])
def test_reserved_bits_of_the_signer_info_are_refused(bit: int) -> None:
    bent = altered(0x48, (1 << bit).to_bytes(4, "little"))
    assert code_of(bent) == "snp.report.reserved"


@pytest.mark.parametrize("key", [2, 3, 4, 5, 6])
def test_a_reserved_signing_key_is_refused(key: int) -> None:
    assert code_of(altered(0x48, bytes((key << 2,)))) == "snp.report.signing_key"


def test_a_report_that_the_firmware_did_not_sign_is_refused() -> None:
    assert code_of(altered(0x48, bytes((7 << 2,)))) == "snp.report.unsigned"


def test_a_report_that_the_host_asked_for_is_refused() -> None:
    assert code_of(altered(0x30, b"\xff" * 4)) == "snp.report.host_requested"


@pytest.mark.parametrize("vmpl", [4, 255, 0x7FFF_FFFF, 0xFFFF_FFFE])
def test_a_vmpl_that_does_not_exist_is_refused(vmpl: int) -> None:
    assert code_of(altered(0x30, vmpl.to_bytes(4, "little"))) == "snp.report.vmpl"


@pytest.mark.parametrize("algorithm", [0, 2, 0xFFFF_FFFF])
def test_another_signature_algorithm_is_refused(algorithm: int) -> None:
    assert code_of(altered(0x34, algorithm.to_bytes(4, "little"))) == "snp.report.algorithm"


def test_an_author_key_digest_without_an_author_key_is_refused() -> None:
    bent = altered(0x110, b"\x01")
    assert code_of(bent) == "snp.report.author_key"
    assert Report.parse(altered(0x48, b"\x01", bent)).author_key_en


@pytest.mark.parametrize("bit", range(26, 64))
def test_reserved_bits_of_the_policy_are_refused(bit: int) -> None:
    with pytest.raises(MalformedError, match="policy"):
        Policy.parse(1 << 17 | 1 << bit)


def test_a_policy_whose_always_set_bit_is_clear_is_refused() -> None:
    with pytest.raises(MalformedError) as caught:
        Policy.parse(1 << 16)
    assert caught.value.code == "snp.report.policy"


# --- bits


def test_each_policy_bit_has_its_own_name() -> None:
    base = Policy.parse(1 << 17)
    named = {
        16: "smt",
        18: "migrate_ma",
        19: "debug",
        20: "single_socket",
        21: "cxl",
        22: "mem_aes_256_xts",
        23: "rapl_dis",
        24: "ciphertext_hiding",
        25: "page_swap_disable",
    }
    for bit, name in named.items():
        policy = Policy.parse(1 << 17 | 1 << bit)
        assert [n for n in named.values() if getattr(policy, n)] == [name]
        assert not getattr(base, name)
    assert (Policy.parse(0x2_3712).abi_major, Policy.parse(0x2_3712).abi_minor) == (0x37, 0x12)


def test_each_platform_bit_has_a_name_or_is_kept_as_unknown() -> None:
    names = {
        0: "smt",
        1: "tsme",
        2: "ecc",
        3: "rapl_dis",
        4: "ciphertext_hiding",
        5: "alias_check_complete",
        7: "tio",
    }
    for bit in range(64):
        info = PlatformInfo.parse(1 << bit)
        assert [n for n in names.values() if getattr(info, n)] == [
            n for b, n in names.items() if b == bit
        ]
        assert info.unknown == (0 if bit in names else 1 << bit)


# --- TCB and product line


@pytest.mark.parametrize(
    ("line", "reserved"),
    [
        (ProductLine.MILAN, range(2, 6)),
        (ProductLine.GENOA, range(2, 6)),
        (ProductLine.TURIN, range(4, 7)),
    ],
)
def test_reserved_bytes_of_a_tcb_are_refused(line: ProductLine, reserved: range) -> None:
    for index in reserved:
        raw = bytearray(8)
        raw[index] = 1
        with pytest.raises(MalformedError) as caught:
            Tcb.decode(bytes(raw), line)
        assert caught.value.code == "snp.report.tcb"


def test_the_same_bytes_are_other_levels_on_turin() -> None:
    raw = bytes((1, 2, 0, 0, 0, 0, 0, 97))
    turin, genoa = Tcb.decode(raw, ProductLine.TURIN), Tcb.decode(raw, ProductLine.GENOA)
    assert (turin.fmc, turin.bootloader) == (1, 2)
    assert (genoa.fmc, genoa.bootloader) == (None, 1)
    assert turin != genoa


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_tcb_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(MalformedError):
        Tcb.decode(bytes(size), ProductLine.MILAN)


@given(st.sampled_from(ProductLine), st.lists(st.integers(0, 255), min_size=5, max_size=5))
def test_a_tcb_survives_encoding(line: ProductLine, levels: list[int]) -> None:
    tcb = Tcb(
        bootloader=levels[0],
        tee=levels[1],
        snp=levels[2],
        microcode=levels[3],
        fmc=levels[4] if line is ProductLine.TURIN else None,
    )
    assert Tcb.decode(tcb.encode(line), line) == tcb


@pytest.mark.parametrize(
    ("family", "model", "line"),
    [
        (0x19, 0x00, ProductLine.MILAN),
        (0x19, 0x0F, ProductLine.MILAN),
        (0x19, 0x10, ProductLine.GENOA),
        (0x19, 0x1F, ProductLine.GENOA),
        (0x19, 0xA0, ProductLine.GENOA),
        (0x19, 0xAF, ProductLine.GENOA),
        (0x1A, 0x00, ProductLine.TURIN),
        (0x1A, 0x11, ProductLine.TURIN),
    ],
)
def test_cpus_belong_to_their_product_line(family: int, model: int, line: ProductLine) -> None:
    assert product_line(family, model) is line


@pytest.mark.parametrize(
    ("family", "model"),
    [(0x19, 0x20), (0x19, 0x9F), (0x19, 0xB0), (0x1A, 0x12), (0x1A, 0x50), (0x17, 0x31), (0, 0)],
)
def test_an_unknown_cpu_is_not_guessed(family: int, model: int) -> None:
    with pytest.raises(UncheckableError) as caught:
        product_line(family, model)
    assert caught.value.code == "snp.chain.product_line"


# --- anything at all


@given(st.binary(max_size=2 * REPORT_SIZE))
def test_any_bytes_are_read_or_refused_as_malformed(data: bytes) -> None:
    _parse_or_malformed(data)


@given(st.lists(st.tuples(st.integers(0, REPORT_SIZE - 1), st.integers(0, 255)), max_size=6))
def test_a_bent_report_is_read_or_refused_as_malformed(bends: list[tuple[int, int]]) -> None:
    report = bytearray(GOOD)
    for offset, value in bends:
        report[offset] = value
    _parse_or_malformed(bytes(report))


def _parse_or_malformed(data: bytes) -> None:
    with suppress(MalformedError):  # any other exception is a failure
        assert Report.parse(data).raw == data
