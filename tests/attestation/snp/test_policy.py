"""The policy file: typed, strict, and safe where it says nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import MalformedError
from attestation.snp.policy import GuestRules, PlatformRules, SnpPolicy
from attestation.snp.product import ProductLine, Tcb

FULL = """
product_lines = ["Genoa", "Turin"]
require_crl = true
sb_3019 = true
allow_provisional_firmware = false
vmpl = [0]
minimum_guest_svn = 2
measurements = ["{m}"]
host_data = ["{h}"]
id_keys = ["{m}"]
author_keys = ["{m}"]
chip_ids = ["{c}", "0102030405060708"]
csp_ids = ["CN=cc-us-east-2.amazonaws.com"]
launch_mitigations = 5
current_mitigations = 0x7

[minimum_reported.Genoa]
snp = 0x17
microcode = 84
[minimum_reported.Turin]
fmc = 1
snp = 4
[minimum_launch.Genoa]
bootloader = 9

[guest]
allow_smt = false
minimum_abi = [1, 51]

[platform]
require_ecc = true
require_alias_check = true
""".format(m="ab" * 48, h="cd" * 32, c="ef" * 64)


def parse(text: str) -> SnpPolicy:
    return SnpPolicy.parse(text.encode())


def test_an_empty_file_demands_what_no_file_demands() -> None:
    assert parse("") == SnpPolicy()


def test_everything_that_can_be_said_is_read() -> None:
    policy = parse(FULL)
    assert policy.product_lines == {ProductLine.GENOA, ProductLine.TURIN}
    assert policy.minimum_reported == {
        ProductLine.GENOA: Tcb(bootloader=0, tee=0, snp=0x17, microcode=84),
        ProductLine.TURIN: Tcb(fmc=1, bootloader=0, tee=0, snp=4, microcode=0),
    }
    assert policy.minimum_launch[ProductLine.GENOA].bootloader == 9
    assert policy.guest == GuestRules(allow_smt=False, minimum_abi=(1, 51))
    assert policy.platform == PlatformRules(require_ecc=True, require_alias_check=True)
    assert policy.chip_ids == {b"\xef" * 64, bytes(range(1, 9)).ljust(64, b"\0")}
    assert policy.current_mitigations == 7
    assert policy.require_crl


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("=", "not TOML"),
        ("measurement = []", "unknown key 'measurement'"),
        ("measurements = []", "not empty"),
        ('measurements = "ab"', "list"),
        ('measurements = ["ab"]', "48 bytes"),
        ('measurements = ["zz"]', "hex"),
        ("measurements = [1]", "hex"),
        ('product_lines = ["Venice"]', "one of"),
        ("product_lines = [1]", "one of"),
        ("require_crl = 1", "true or false"),
        ("vmpl = [4]", "0 to 3"),
        ("vmpl = [true]", "0 to 3"),
        ("vmpl = 0", "list"),
        ("minimum_guest_svn = -1", "0 to"),
        ("minimum_guest_svn = 4294967296", "0 to"),
        ("[guest]\nallow_debug = 'no'", "allow_debug: true or false"),
        ("[guest]\nallow_debugging = true", "unknown key"),
        ("[guest]\nminimum_abi = [1]", "major"),
        ("guest = 1", "a table"),
        ("[platform]\nrequire_smt = true", "unknown key"),
        ("[minimum_reported.Genoa]\nfmc = 1", "unknown key"),
        ("[minimum_reported.Genoa]\nsnp = 256", "0 to 255"),
        ("[minimum_reported.Zen]\nsnp = 1", "one of"),
        ("[minimum_reported]\nGenoa = 1", "a table"),
        ("csp_ids = [1]", "strings"),
        ("chip_ids = ['01']", "8 or 64"),
    ],
)
def test_a_mistake_is_refused_and_named(text: str, says: str) -> None:
    with pytest.raises(MalformedError, match=says) as caught:
        parse(text)
    assert caught.value.code == "snp.policy.format"


def test_a_policy_that_is_too_large_is_not_read() -> None:
    with pytest.raises(MalformedError):
        SnpPolicy.parse(b"#" * (1024 * 1024 + 1))


def test_what_is_not_utf8_is_refused() -> None:
    with pytest.raises(MalformedError, match="not TOML"):
        SnpPolicy.parse(b"\xff")


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_ends_in_a_policy_or_our_own_error(name: str, value: str) -> None:
    with suppress(MalformedError):
        SnpPolicy.parse(f"{name} = {value}".encode(errors="replace"))
