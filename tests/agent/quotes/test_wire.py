"""What the agent and the quote helper say: exact, bounded, and never half understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.quotes import wire as quote_wire
from agent.quotes.wire import (
    HEAD,
    MAGIC,
    MAX_BLOB,
    decode_reply,
    decode_request,
    encode_error,
    encode_quote,
    encode_request,
)
from attestation.errors import MalformedError, QuoteError
from attestation.tsm import Quote

DATA = bytes(range(64))


@given(st.binary(min_size=64, max_size=64), st.none() | st.integers(0, 3))
def test_a_request_comes_back_as_it_was(data: bytes, privlevel: int | None) -> None:
    assert decode_request(encode_request(data, privlevel)) == (data, privlevel)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_length_are_not_sent(size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        encode_request(bytes(size))


@given(st.binary(max_size=200))
def test_anything_else_is_no_request(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_request(data)


@pytest.mark.parametrize("privlevel", [4, 5, 254])
def test_a_privlevel_that_there_is_not_is_refused(privlevel: int) -> None:
    with pytest.raises(MalformedError, match="privlevel"):
        decode_request(encode_request(DATA, privlevel))


@given(st.sampled_from(["sev_guest", "tdx_guest"]), st.binary(), st.binary())
def test_a_quote_comes_back_as_it_was(provider: str, outblob: bytes, auxblob: bytes) -> None:
    quote = Quote(provider=provider, outblob=outblob, auxblob=auxblob)
    assert decode_reply(encode_quote(quote)) == quote


def test_a_quote_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(QuoteError, match="too large"):
        encode_quote(Quote(provider="tdx_guest", outblob=bytes(MAX_BLOB + 1), auxblob=b""))


@given(st.text(), st.text(), st.booleans(), st.none() | st.integers(1, 133))
def test_an_error_comes_back_as_it_was(
    message: str, remedy: str, final: bool, number: int | None
) -> None:
    with pytest.raises(QuoteError) as caught:
        decode_reply(
            encode_error(
                QuoteError("quote.busy", message, remedy=remedy, final=final, errno=number)
            )
        )
    error = caught.value
    assert (error.code, error.final, error.errno) == ("quote.busy", final, number)
    if message.isprintable() and len(message) < 500:
        assert str(error) == message


def test_a_request_that_was_malformed_is_not_worth_another_try() -> None:
    with pytest.raises(QuoteError) as caught:
        decode_reply(encode_error(MalformedError("quote.request", "no")))
    assert caught.value.final


@given(st.binary(max_size=400))
def test_anything_else_is_no_reply(data: bytes) -> None:
    with pytest.raises((MalformedError, QuoteError)):
        decode_reply(MAGIC + data)


@given(
    st.integers(0, 255),
    st.integers(0, 255),
    st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3),
)
def test_lengths_that_do_not_fit_are_refused(kind: int, final: int, lengths: list[int]) -> None:
    head = HEAD.pack(MAGIC, kind, final, 0, *lengths)
    with pytest.raises((MalformedError, QuoteError)):
        decode_reply(head + bytes(7))
    if sum(lengths) > quote_wire.MAX_TEXT + 2 * MAX_BLOB:
        with pytest.raises(MalformedError):
            decode_reply(head)
