"""CBOR: one encoding out, only plain and bounded data in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cbor2 import CBORTag
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import cbor
from attestation.errors import MalformedError

RAN, REFUSED = 34, 15  # of the 82 examples of RFC 8949 Appendix A

SCALARS = st.one_of(
    st.integers(-(2**64), 2**64 - 1), st.booleans(), st.none(), st.binary(max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)  # fmt: skip
KEYS = st.one_of(st.integers(-(2**64), 2**64 - 1), st.text(max_size=8), st.binary(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_encoded_decodes_to_the_same_and_is_deterministic(value: Any) -> None:
    data = cbor.encode(value)
    assert cbor.decode(data, deterministic=True) == value
    assert cbor.encode(cbor.decode(data)) == data


# Maps with keys of one kind: RFC 7049, by which cbor2 sorts, and RFC 8949 agree about these.
OF_ONE_KIND = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        *(
            st.dictionaries(keys, inner, max_size=5)
            for keys in (
                st.integers(0, 2**64 - 1),
                st.integers(-(2**64), -1),
                st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
                st.binary(max_size=300),
            )
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(OF_ONE_KIND)
def test_cbor2_writes_the_same_in_its_canonical_form(value: Any) -> None:
    assert cbor2.dumps(value, canonical=True) == cbor.encode(value)


def _has_tag(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, CBORTag) or any(map(_has_tag, inner))


@settings(max_examples=400, deadline=None)
@given(VALUES.map(cbor.encode), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255))))
def test_cbor2_reads_what_we_read(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for place, octet in changes:
        changed[place % len(changed)] = octet
    try:
        value = cbor.decode(bytes(changed))
    except MalformedError:
        return
    if not _has_tag(value):  # to which cbor2 gives a meaning
        assert repr(cbor2.loads(bytes(changed))) == repr(value)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_bytes_of_a_stranger_decode_or_are_malformed(data: bytes, deterministic: bool) -> None:
    try:
        value = cbor.decode(data, deterministic=deterministic)
    except MalformedError:
        return
    if deterministic:
        assert cbor.encode(value) == data


def test_maps_are_sorted_by_their_encoded_keys() -> None:
    value = {"aa": 1, "b": 2, -1: 3, 24: 4, 10: 5, b"x": 6}
    assert cbor.encode(value).hex() == "a60a0518180420034178066162026261610" + "1"


@pytest.mark.parametrize(
    "data",
    [
        "", "1801", "190001", "1b0000000000000001", "5f4101ff", "9f01ff", "bf0101ff", "ff",
        "a201010102", "0000", "81", "61ff", "62c328", "1c", "f818", "f0", "a1f501", "a1f6f6",
        "a18001", "f97e00", "1bffffffffffffffff00",
    ],
)  # fmt: skip
def test_other_forms_are_refused_where_one_form_is_asked_for(data: str) -> None:
    with pytest.raises(MalformedError):
        cbor.decode(bytes.fromhex(data), deterministic=True)


def test_depth_and_size_are_bounded() -> None:
    deep = b"\x81" * 20 + b"\x01"
    with pytest.raises(MalformedError):
        cbor.decode(deep)
    with pytest.raises(MalformedError):
        cbor.decode(b"\x81" * 1_000_000, max_size=2**21, max_depth=16)
    with pytest.raises(MalformedError):
        cbor.decode(b"\x58\x20" + bytes(32), max_size=10)
    with pytest.raises(MalformedError):
        cbor.decode(bytes.fromhex("9bffffffffffffffff"))


def test_items_are_bounded_however_they_are_spread() -> None:
    row = cbor.encode([0] * 100)
    assert cbor.decode(b"\x98\x64" + row * 100, max_items=10_100)
    pairs = cbor.encode(dict.fromkeys(range(100), 0))
    assert cbor.decode(pairs, max_items=200)
    for data, most in ((b"\x98\x64" + row * 100, 10_099), (pairs, 199)):
        with pytest.raises(MalformedError) as caught:
            cbor.decode(data, max_items=most)
        assert caught.value.code == "cbor.items"
    # A quarter of a megabyte of empty arrays costs a third of a second otherwise.
    with pytest.raises(MalformedError):
        cbor.decode(b"\x9a\x00\x03\xd0\x90" + b"\x80" * 250_000, max_size=2**20)


@pytest.mark.parametrize("value", [1.5, {1.0: 1}, {True: 1}, object(), {None: 1}, 2**64, "\ud800"])
def test_what_has_no_single_form_is_not_encoded(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        cbor.encode(value)


def test_the_examples_of_rfc_8949(vectors: Path) -> None:
    (path,) = (vectors / "cose" / "cbor-appendix-a").glob("*.json")
    ran = refused = 0
    for case in json.loads(path.read_text(encoding="utf-8")):
        data = bytes.fromhex(case["hex"])
        try:
            value = cbor.decode(data)
        except MalformedError:
            # Indefinite lengths and simple values are not in our plain model.
            refused += 1
            continue
        if "decoded" in case and not isinstance(value, (CBORTag, float)):
            assert value == case["decoded"], case["hex"]
            ran += 1
    assert (ran, refused) == (RAN, REFUSED)
