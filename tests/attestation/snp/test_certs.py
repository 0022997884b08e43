"""Certificates read exactly: AMD's extensions, keys, algorithms, and where they come from."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.errors import MalformedError, UncheckableError
from attestation.simulated import ca
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp import extensions as amd
from attestation.snp.certs import Certificate, Chain
from attestation.snp.names import SIMULATED
from attestation.snp.product import EndorsementKey, ProductLine
from attestation.snp.table import CertTable, TableEntry
from tests.attestation.snp.conftest import SnpVectors
from tests.attestation.snp.synthetic import CSP, NOW, Evidence, der, make


def code_of(evidence: Evidence) -> str:
    with pytest.raises(MalformedError) as caught:
        _ = evidence.chain
    return caught.value.code


def pem(certificate: bytes) -> bytes:
    text = base64.encodebytes(certificate)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


# --- real certificates


def test_every_real_endorsement_key_reads_as_it_was_decoded_independently(
    snp: SnpVectors,
) -> None:
    oids = {
        "3.1": "bootloader",
        "3.2": "tee",
        "3.3": "snp",
        "3.8": "microcode",
        "3.9": "fmc",
    }
    seen = set()
    for known in snp.certs:
        if not known["ek"] or known["ek"]["hwfmt"] == "tagged":
            continue
        extensions = amd.AmdExtensions.parse(
            Certificate.parse(snp.cert(known["h"]), "EK").extensions
        )
        assert extensions.product_name == known["ek"]["product"]
        assert (extensions.hwid.hex() if extensions.hwid else None) == known["ek"]["hwid"]
        assert extensions.csp_id == known["ek"]["csp"]
        for oid, name in oids.items():
            assert getattr(extensions.tcb, name) == known["ek"]["spl"].get(oid)
        assert extensions.struct_version == (extensions.product_line is ProductLine.TURIN)
        seen.add((extensions.product_line, extensions.hwid is None))
    assert seen == {
        (ProductLine.MILAN, False),
        (ProductLine.MILAN, True),
        (ProductLine.GENOA, False),
        (ProductLine.TURIN, False),
    }


def test_a_hardware_id_that_is_wrapped_in_an_octet_string_is_refused(snp: SnpVectors) -> None:
    with pytest.raises(MalformedError, match="66 bytes"):
        amd.AmdExtensions.parse(Certificate.parse(snp.cert("f875ab6fb518d27b"), "EK").extensions)


def test_a_serial_number_that_no_list_can_name_is_refused(
    simulated_vendor: SimulatedVendor,
) -> None:
    bent = bytearray(der(simulated_vendor.intermediate))
    Certificate.parse(bytes(bent), "ASK or ASVK")
    bent[15] |= 0x80  # after two SEQUENCEs of 4 bytes, the version, and the INTEGER's header
    with pytest.raises(MalformedError, match="negative"):
        Certificate.parse(bytes(bent), "ASK or ASVK")


def test_pem_and_der_are_the_same_certificate(snp: SnpVectors) -> None:
    for name in ("69d063b45344d26a", "b8a8f27c2c4cb9fe"):
        data = snp.cert(name)
        assert Certificate.parse(pem(data), "x").der == Certificate.parse(data, "x").der == data


# --- extensions


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02",
        b"\x02\x01",
        b"\x02\x00",
        b"\x02\x01\x80",  # -128
        b"\x02\x01\xd9",  # what a careless issuer writes for 217
        b"\x02\x02\x00\x7f",  # not the shortest form
        b"\x02\x02\x01\x00",  # 256
        b"\x02\x01\x05\x00",  # something follows
        b"\x02\x02\x00\xd9\x00",
        b"\x02\x81\x01\x05",  # BER length
        b"\x04\x01\x05",
        b"\x0a\x01\x05",
    ],
)
@pytest.mark.parametrize("oid", [amd.OID_MICROCODE, amd.OID_STRUCT_VERSION])
def test_a_patch_level_that_is_not_der_of_0_to_255_is_refused(
    simulated_vendor: SimulatedVendor, oid: str, value: bytes
) -> None:
    bent = make(simulated_vendor, change_values=lambda values: values.update({oid: value}))
    assert code_of(bent) == "snp.certs.extension"


@pytest.mark.parametrize("number", [0, 1, 127, 128, 217, 255])
def test_every_patch_level_up_to_255_is_read(
    simulated_vendor: SimulatedVendor, number: int
) -> None:
    value = b"\x02\x01" + bytes((number,)) if number < 128 else b"\x02\x02\0" + bytes((number,))
    evidence = make(
        simulated_vendor, change_values=lambda values: values.update({amd.OID_SNP: value})
    )
    assert evidence.chain.extensions.tcb.snp == number


@pytest.mark.parametrize(
    "oid",
    [
        amd.OID_STRUCT_VERSION,
        amd.OID_PRODUCT_NAME,
        amd.OID_BOOTLOADER,
        amd.OID_TEE,
        amd.OID_SNP,
        amd.OID_MICROCODE,
    ],
)
def test_a_missing_extension_is_refused(simulated_vendor: SimulatedVendor, oid: str) -> None:
    bent = make(simulated_vendor, change_values=lambda values: values.pop(oid))
    assert code_of(bent) == "snp.certs.extension"


@pytest.mark.parametrize("oid", amd.OIDS_RESERVED)
def test_a_reserved_patch_level_that_is_not_zero_is_refused(
    simulated_vendor: SimulatedVendor, oid: str
) -> None:
    bent = make(simulated_vendor, change_values=lambda v: v.update({oid: b"\x02\x01\x01"}))
    assert code_of(bent) == "snp.certs.extension"


@pytest.mark.parametrize("suffix", ["1.6", "1.3.10", "1.4.1", "2.1", "1"])
def test_an_unknown_extension_in_the_vendors_arc_is_refused(
    simulated_vendor: SimulatedVendor, suffix: str
) -> None:
    oid = amd.AMD_ARC + suffix
    bent = make(simulated_vendor, change_values=lambda values: values.update({oid: b"\x05\0"}))
    assert code_of(bent) == "snp.certs.extension"


def test_an_extension_that_is_there_twice_is_refused(simulated_vendor: SimulatedVendor) -> None:
    good = make(simulated_vendor)
    arc = bytes.fromhex("06 0a 2b060104019c780103")
    assert good.ek.count(arc + b"\x05") == 1
    doubled = Evidence(
        report=good.report,
        ark=good.ark,
        ica=good.ica,
        ek=good.ek.replace(arc + b"\x05", arc + b"\x06"),
        roots=good.roots,
    )
    assert code_of(doubled) == "snp.certs.certificate"


@pytest.mark.parametrize("size", [0, 1, 7, 9, 63, 65, 66, 128])
def test_a_hardware_id_of_another_length_is_refused(
    simulated_vendor: SimulatedVendor, size: int
) -> None:
    bent = make(simulated_vendor, change_values=lambda v: v.update({amd.OID_HWID: b"\1" * size}))
    assert code_of(bent) == "snp.certs.extension"


def test_a_raw_hardware_id_that_looks_like_an_octet_string_is_read_raw(
    simulated_vendor: SimulatedVendor,
) -> None:
    raw = b"\x04\x3e" + bytes(62)
    evidence = make(
        simulated_vendor,
        chip_id=raw,
        change_values=lambda values: values.update({amd.OID_HWID: raw}),
    )
    assert evidence.chain.extensions.hwid == raw
    evidence.verify()


@pytest.mark.parametrize(
    "value",
    [b"", b"\x16", b"\x16\0", b"\x16\x06Genoa", b"\x0c\x05Genoa", b"\x16\x05Gen\xf6a", b"\x16\1\n"],
)
def test_a_product_name_that_is_not_printable_ia5_is_refused(
    simulated_vendor: SimulatedVendor, value: bytes
) -> None:
    bent = make(simulated_vendor, change_values=lambda v: v.update({amd.OID_PRODUCT_NAME: value}))
    assert code_of(bent) == "snp.certs.extension"


def test_a_later_structure_version_is_refused(simulated_vendor: SimulatedVendor) -> None:
    bent = make(
        simulated_vendor,
        change_values=lambda values: values.update({amd.OID_STRUCT_VERSION: b"\x02\x01\x02"}),
    )
    assert code_of(bent) == "snp.certs.extension"


# --- algorithms and keys


def _signed_with(
    vendor: SimulatedVendor,
    *,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    rsa_padding: padding.PSS | padding.PKCS1v15 = ca.PSS,
    digest: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    name = SIMULATED.name(SIMULATED.ark(ProductLine.GENOA))
    return der(
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + ca.LIFETIME)
        .sign(vendor.root_key, digest or hashes.SHA384(), rsa_padding=rsa_padding)
    )


@pytest.mark.parametrize(
    ("rsa_padding", "digest"),
    [
        (padding.PKCS1v15(), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA384()), 0), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 48), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA256()),
    ],
)
def test_another_signature_algorithm_or_parameter_is_refused(
    simulated_vendor: SimulatedVendor,
    rsa_padding: padding.PSS | padding.PKCS1v15,
    digest: hashes.SHA256 | hashes.SHA384,
) -> None:
    data = _signed_with(
        simulated_vendor,
        public_key=simulated_vendor.root_key.public_key(),
        rsa_padding=rsa_padding,
        digest=digest,
    )
    with pytest.raises(MalformedError) as caught:
        Certificate.parse(data, "ARK")
    assert caught.value.code == "snp.certs.algorithm"


@pytest.mark.parametrize("name", ["69d063b45344d26a", "b8a8f27c2c4cb9fe"])
def test_the_declared_parameters_are_checked_inside_and_outside_of_the_signed_part(
    snp: SnpVectors, name: str
) -> None:
    data, salt = snp.cert(name), bytes.fromhex("a203020130")
    assert data.count(salt) == 2
    inner, outer = data.find(salt), data.rfind(salt)
    for where in (inner, outer):
        bent = data[: where + 4] + b"\x20" + data[where + 5 :]
        with pytest.raises(MalformedError) as caught:
            Certificate.parse(bent, "x")
        assert caught.value.code in {"snp.certs.algorithm", "snp.certs.certificate"}


def test_keys_of_another_kind_are_refused(simulated_vendor: SimulatedVendor) -> None:
    good = make(simulated_vendor)
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    small = rsa.generate_private_key(65537, 2048).public_key()
    for public_key in (p256, small):
        data = _signed_with(simulated_vendor, public_key=public_key)
        with pytest.raises(MalformedError) as caught:
            Chain.parse(ark=good.ark, ica=good.ica, ek=data)
        assert caught.value.code == "snp.certs.key"
    for other in (p384, small):
        data = _signed_with(simulated_vendor, public_key=other)
        for place in ("ark", "ica"):
            parts = {"ark": good.ark, "ica": good.ica, "ek": good.ek, place: data}
            with pytest.raises(MalformedError) as caught:
                Chain.parse(**parts)
            assert caught.value.code == "snp.certs.key"


# --- where certificates come from


def test_the_table_gives_the_chain_of_the_asked_key(simulated_vendor: SimulatedVendor) -> None:
    vcek = make(simulated_vendor)
    vlek = make(simulated_vendor, kind=EndorsementKey.VLEK)
    table = CertTable(
        {
            TableEntry.VCEK: vcek.ek,
            TableEntry.VLEK: pem(vlek.ek),
            TableEntry.ICA: pem(vcek.ica),
            TableEntry.ARK: vcek.ark,
        }
    )
    assert Chain.from_table(table, EndorsementKey.VCEK).extensions.csp_id is None
    assert Chain.from_table(table, EndorsementKey.VLEK).extensions.csp_id == CSP
    with pytest.raises(MalformedError) as caught:
        Chain.from_table(table)
    assert caught.value.code == "snp.certs.ambiguous"


@pytest.mark.parametrize("missing", [TableEntry.VCEK, TableEntry.ICA, TableEntry.ARK])
def test_a_certificate_that_the_host_did_not_supply_is_named(
    simulated_vendor: SimulatedVendor, missing: TableEntry
) -> None:
    contents = dict(CertTable.parse(simulated_vendor.certificate_table()).contents)
    del contents[missing]
    for key in (None, EndorsementKey.VCEK):
        with pytest.raises(UncheckableError, match=missing.name) as caught:
            Chain.from_table(CertTable(contents), key)
        assert caught.value.code == "snp.chain.missing"
        assert caught.value.remedy


def test_a_key_of_the_wrong_kind_in_the_table_is_not_taken_instead(
    simulated_vendor: SimulatedVendor,
) -> None:
    table = CertTable.parse(simulated_vendor.certificate_table())
    with pytest.raises(UncheckableError, match="VLEK"):
        Chain.from_table(table, EndorsementKey.VLEK)


def test_what_is_not_exactly_one_certificate_is_refused(
    simulated_vendor: SimulatedVendor,
) -> None:
    data = der(simulated_vendor.root)
    for bent in (
        b"",
        data[:-1],
        data + b"\0",
        data * 9,
        b"\xff" * 200,
        pem(data) + pem(data),
        b"-----BEGIN CERTIFICATE-----\n",
        pem(data).replace(b"CERTIFICATE", b"PUBLIC KEY"),
    ):
        with pytest.raises(MalformedError):
            Certificate.parse(bent, "ARK")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("55040b 0c0b", "55040b 030b"),  # a BIT STRING where the library allows none
        ("55040b 0c0b", "550406 0c0b"),  # a country of 11 letters
        ("55040b 0c0b", "550406 1e0b"),
        ("55040b 0c0b", "55040b 0c0a"),
    ],
)
def test_a_name_that_the_library_stumbles_over_is_refused(
    snp: SnpVectors, old: str, new: str
) -> None:
    data = snp.cert("b4165c7b5d6e1b53")
    assert data.count(bytes.fromhex(old)) == 2
    with pytest.raises(MalformedError) as caught:
        Certificate.parse(data.replace(bytes.fromhex(old), bytes.fromhex(new)), "EK")
    assert caught.value.code == "snp.certs.certificate"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bends=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_bent_certificate_is_read_or_refused_as_malformed(
    simulated_vendor: SimulatedVendor, bends: list[tuple[int, int]]
) -> None:
    data = bytearray(der(simulated_vendor.vcek))
    for offset, mask in bends:
        data[offset % len(data)] ^= mask
    with suppress(MalformedError):  # any other exception is a failure
        amd.AmdExtensions.parse(Certificate.parse(bytes(data), "EK").extensions)
