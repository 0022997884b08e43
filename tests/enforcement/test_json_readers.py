"""JSON bodies: other readers see in them what we see, and in what goes on nothing else.

Python's own reader is what vLLM takes bodies with; llama.cpp's takes less. It is the judge here: it
takes the last of two equal keys, NaN and half surrogate pairs, all of which go no further than us.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcement.content.texts import BodyError, encode_json, parse_json

NAMES = ('"a"', '"\\u0061"', '"b"', '""', '"é"', "a", '"\\ud800"')
ATOMS = (
    *(
        '"\\ud83d\\ude00"',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\u0000"',
        '"\0"',
        '"\n"',
        '"\x7f"',
        '"\\x"',
    ),
    *(
        '"\\/"',
        '"\u2028"',
        "'a'",
        "0",
        "-0",
        "01",
        "1.",
        ".5",
        "1E+5",
        "1e-400",
        "1e400",
        "1.8e308",
    ),
    *("9" * 30, "9" * 5000, "18446744073709551616", "0.1", "true", "null", "NaN", "-Infinity"),
    *("True", "/**/1", "\ufeff1", "\x0b1", " \t\r\n1", "\u20281", "[" * 2000 + "]" * 2000),
)


def _joined(parts: list[str]) -> str:
    return "[" + ",".join(parts) + "]"


def _object(parts: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{value}" for name, value in parts) + "}"


DOCUMENTS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.lists(inner, max_size=3).map(_joined)
        | st.lists(st.tuples(st.sampled_from(NAMES), inner), max_size=4).map(_object)
    ),
    max_leaves=8,
)
BROKEN = st.tuples(st.integers(0, 400), st.binary(max_size=3))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key stands twice in what goes on"
    return dict(pairs)


@given(DOCUMENTS, st.none() | BROKEN)
@settings(max_examples=400, deadline=None)
def test_what_is_taken_means_one_thing_to_every_reader(
    document: str, broken: tuple[int, bytes] | None
) -> None:
    body = document.encode()
    if broken is not None:
        place, octets = broken
        body = body[:place] + octets + body[place + 1 :]
    try:
        ours = parse_json(body)
    except BodyError:
        return
    assert repr(json.loads(body.decode(), parse_constant=_no_constant)) == repr(ours)
    goes_on = encode_json(ours).decode()
    theirs = json.loads(goes_on, parse_constant=_no_constant, object_pairs_hook=_once)
    assert repr(theirs) == repr(ours)


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e400}', b'{"a":"\\ud800"}', b'{"\\udc00":1}'),
        *(
            b'{"a":"\xff"}',
            b'\xef\xbb\xbf{"a":1}',
            b'{"a":1}{}',
            b'{"a":1,}',
            b"{'a':1}",
            b'{"a":01}',
        ),
        *(b'{"a":"\n"}', b'{"a":/**/1}', b'{"a":' * 5000 + b"1" + b"}" * 5000, b"\0", b""),
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_what_readers_disagree_about_is_refused(body: bytes) -> None:
    with pytest.raises(BodyError) as info:
        parse_json(body)
    assert info.value.code == "invalid_json"


def test_of_two_equal_keys_the_last_goes_on_alone() -> None:
    assert encode_json(parse_json(b'{"a":1,"\\u0061":2,"a":3}')) == b'{"a":3}'
