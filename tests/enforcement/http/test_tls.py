"""The server's side of TLS without a socket, against a client without one."""

from __future__ import annotations

import contextlib
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import TlsTable
from agent.gateway.tls_files import load
from enforcement.http.tls import MAX_HANDSHAKE, TlsError, TlsSession
from tests.pki import CHAT, DOMAIN, HOUR, Cert, authority, client_context, make

ROOT = authority()
GATEWAY = make("gateway", hosts=("gateway.example",))
CLIENT = make("chat", ROOT, uris=(CHAT,))


class Client:
    """The other end."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming, self.outgoing, server_hostname="gateway.example", session=session
        )

    def handshake(self, data: bytes = b"") -> bytes:
        """Go on; gives what is to be sent."""
        self.incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.object.do_handshake()
        return self.outgoing.read()

    def say(self, text: bytes) -> bytes:
        self.object.write(text)
        return self.outgoing.read()

    def hear(self, data: bytes) -> bytes:
        self.incoming.write(data)
        heard = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while part := self.object.read(65_536):
                heard += part
        return heard

    def end(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self.object.unwrap()
        return self.outgoing.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    GATEWAY.write(folder, "gateway")
    ROOT.write(folder, "root")
    return folder


def server(folder: Path, **table: object) -> ssl.SSLContext:
    parts = {
        "certificate_file": f"{folder}/gateway.pem",
        "key_file": f"{folder}/gateway.key",
        "client": "required",
        "trust_domains": {DOMAIN: f"{folder}/root.pem"},
        **table,
    }
    return load(TlsTable(**parts), now=NOW).credentials.context  # type: ignore[arg-type]


NOW = CLIENT.certificate.not_valid_before_utc.timestamp() + 3600


@pytest.fixture(scope="module")
def strict(folder: Path) -> ssl.SSLContext:
    return server(folder)


@pytest.fixture(scope="module")
def client(folder: Path) -> ssl.SSLContext:
    return client_context(folder, GATEWAY, CLIENT)


def connect(context: ssl.SSLContext, client: Client, *, piece: int = 1 << 20) -> TlsSession:
    """A finished handshake, `piece` bytes at a time. Raises TlsError."""
    session = TlsSession(context)
    to_server = client.handshake()
    for _ in range(10):
        for data in pieces(to_server, [piece] * len(to_server)):
            session.feed(data)
            session.handshake()
        to_server = client.handshake(session.outgoing())
        if session.open and not to_server:
            return session
    raise AssertionError("the handshake does not end")


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    place = 0
    for size in sizes:
        if place >= len(data):
            return
        yield data[place : place + size]
        place += size
    if place < len(data):
        yield data[place:]


def heard(session: TlsSession, data: bytes) -> list[bytes]:
    """Everything that comes out, piece by piece; an empty one is the end."""
    session.feed(data)
    texts = []
    while (text := session.read()) is not None:
        texts.append(text)
        if not text:
            break
    return texts


# -- what goes through ----------------------------------------------------------------------------


@given(
    texts=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4),
    sizes=st.lists(st.integers(1, 20_000), max_size=40),
)
def test_texts_come_out_as_they_went_in_however_records_are_cut(
    strict: ssl.SSLContext, client: ssl.SSLContext, texts: list[bytes], sizes: list[int]
) -> None:
    peer = Client(client)
    session = connect(strict, peer)
    data = b"".join(map(peer.say, texts)) + peer.end()
    out = [text for piece in pieces(data, sizes) for text in heard(session, piece)]
    assert b"".join(out) == b"".join(texts)
    assert out[-1] == b""  # the end was said
    session.write(b"and back")
    assert peer.hear(session.outgoing()) == b"and back"


@pytest.mark.parametrize("tls12", [False, True])
def test_a_handshake_byte_by_byte(folder: Path, strict: ssl.SSLContext, tls12: bool) -> None:
    peer = Client(client_context(folder, GATEWAY, CLIENT, tls12=tls12))
    session = connect(strict, peer, piece=1)
    assert session.version == ("TLSv1.2" if tls12 else "TLSv1.3")
    assert session.certificate() == CLIENT.der
    assert session.verified_chain() == [CLIENT.der, ROOT.der]
    assert heard(session, peer.say(b"hello")) == [b"hello"]


def test_http_1_1_is_agreed_on(folder: Path, strict: ssl.SSLContext) -> None:
    context = client_context(folder, GATEWAY, CLIENT)
    context.set_alpn_protocols(["h2", "http/1.1"])
    peer = Client(context)
    connect(strict, peer)
    assert peer.object.selected_alpn_protocol() == "http/1.1"


def test_a_text_larger_than_any_record_is_written_and_read(
    strict: ssl.SSLContext, client: ssl.SSLContext
) -> None:
    peer = Client(client)
    session = connect(strict, peer)
    text = bytes(range(256)) * 4096
    session.write(text)
    assert peer.hear(session.outgoing()) == text
    assert b"".join(heard(session, peer.say(text))) == text


def test_an_empty_text_is_no_record(strict: ssl.SSLContext, client: ssl.SSLContext) -> None:
    session = connect(strict, Client(client))
    session.write(b"")
    assert session.outgoing() == b""


# -- ends -----------------------------------------------------------------------------------------


def test_an_end_that_was_not_said_is_no_end(strict: ssl.SSLContext, client: ssl.SSLContext) -> None:
    peer = Client(client)
    session = connect(strict, peer)
    assert heard(session, peer.say(b"some")) == [b"some"]
    with pytest.raises(TlsError) as info:
        session.feed(b"")
    assert info.value.reason == "closed"


def test_after_the_peers_end_ours_can_still_be_said(
    strict: ssl.SSLContext, client: ssl.SSLContext
) -> None:
    peer = Client(client)
    session = connect(strict, peer)
    assert heard(session, peer.end()) == [b""]
    session.write(b"the reply")
    session.finish()
    session.finish()
    assert peer.hear(session.outgoing()) == b"the reply"
    with pytest.raises(TlsError):
        session.write(b"more")


def test_the_end_of_a_session_without_keys_says_nothing(strict: ssl.SSLContext) -> None:
    session = TlsSession(strict)
    session.finish()
    assert session.outgoing() == b""


# -- what is refused ------------------------------------------------------------------------------


def given_up(context: ssl.SSLContext, *data: bytes) -> str:
    """Why the server ends a handshake in which it is sent this; empty: it waits for more."""
    session = TlsSession(context)
    try:
        for piece in data:
            session.feed(piece)
            assert not session.handshake()
    except TlsError as error:
        return error.reason
    return ""


def refused(context: ssl.SSLContext, peer: Client) -> str:
    with pytest.raises(TlsError) as info:
        connect(context, peer)
    return info.value.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "plain_http"),
        (b"POST", "plain_http"),
        (b"PRI * HTTP/2.0\r\n", "plain_http"),
        (b"\x00\x01\x02", "not_tls"),
        (b"\x80\x2e\x01\x00\x02", "not_tls"),  # SSL 2
        (b"\x17\x03\x03\x00\x01a", "not_tls"),  # application data
        (b"\x15\x03\x01\x00\x02\x02\x28", "not_tls"),  # an alert
        (b"\x16\x03\x01\x00\x05hello", "malformed"),
        (b"\x16\x00\x00\x00\x05\x01\x00\x00\x01\x00", "old_version"),
        (b"\x16\x03\x01\xff\xff", "malformed"),
    ],
)
def test_what_is_no_tls_is_refused(strict: ssl.SSLContext, data: bytes, reason: str) -> None:
    assert given_up(strict, data) == reason


@given(data=st.binary(min_size=1, max_size=2000), sizes=st.lists(st.integers(1, 50), max_size=60))
def test_garbage_of_any_kind_ends_in_an_error_or_waits_for_more(
    strict: ssl.SSLContext, data: bytes, sizes: list[int]
) -> None:
    assert given_up(strict, *pieces(b"\x16\x03\x01" + data, sizes)) in {
        "", "malformed", "old_version", "no_common_cipher"
    }  # fmt: skip


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_changed_bit_is_never_read_as_text(
    strict: ssl.SSLContext, client: ssl.SSLContext, place: int, bit: int
) -> None:
    peer = Client(client)
    session = connect(strict, peer)
    data = bytearray(peer.say(b"first") + peer.say(b"second"))
    place %= len(data)
    data[place] ^= 1 << bit
    out: list[bytes] = []
    with contextlib.suppress(TlsError):
        out = heard(session, bytes(data))
    assert b"".join(out) in (b"", b"first")


def test_a_handshake_that_never_ends_has_an_end(strict: ssl.SSLContext) -> None:
    # A message of 131,000 bytes, one in each record.
    hello = b"\x01\x01\xff\xb8"
    records = [b"\x16\x03\x01\x00\x01" + bytes([byte]) for byte in hello] + [
        b"\x16\x03\x01\x00\x01a"
    ] * (MAX_HANDSHAKE // 6)
    assert given_up(strict, *records) in ("malformed", "too_large")


def test_tls_1_1_is_refused(folder: Path, strict: ssl.SSLContext) -> None:
    context = client_context(folder, GATEWAY, CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):  # the library does not like it either
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert refused(strict, Client(context)) == "old_version"


def test_tls_1_2_is_refused_where_1_3_is_the_minimum(folder: Path) -> None:
    context = client_context(folder, GATEWAY, CLIENT, tls12=True)
    assert refused(server(folder, minimum_version="1.3"), Client(context)) == "old_version"


@pytest.mark.parametrize("cipher", ["AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA256"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(
    folder: Path, strict: ssl.SSLContext, cipher: str
) -> None:
    context = client_context(folder, GATEWAY, CLIENT, tls12=True)
    context.set_ciphers(cipher)
    assert refused(strict, Client(context)) == "no_common_cipher"


# -- sessions are not resumed ---------------------------------------------------------------------


def test_there_is_nothing_to_resume_with_tls_1_3(
    strict: ssl.SSLContext, client: ssl.SSLContext
) -> None:
    peer = Client(client)
    session = connect(strict, peer)
    session.write(b"x")
    peer.hear(session.outgoing())
    again = Client(client, peer.object.session)
    second = connect(strict, again)
    assert not again.object.session_reused
    assert second.verified_chain() == [CLIENT.der, ROOT.der]


def test_a_session_of_tls_1_2_is_resumed_with_its_certificate_and_without_a_chain(
    folder: Path, strict: ssl.SSLContext
) -> None:
    context = client_context(folder, GATEWAY, CLIENT, tls12=True)
    first = Client(context)
    kept = connect(strict, first)  # OpenSSL forgets a session whose connection goes without an end
    again = Client(context, first.object.session)
    session = connect(strict, again)
    assert again.object.session_reused
    assert session.certificate() == CLIENT.der
    assert session.verified_chain() == []
    assert kept.open
    # Another reading of the files is another context, which knows none of them.
    fresh = Client(context, first.object.session)
    connect(server(folder), fresh)
    assert not fresh.object.session_reused


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (None, "no_certificate"),
        (make("stranger", authority("other"), uris=(CHAT,)), "unknown_authority"),
        (make("alone", uris=(CHAT,)), "self_signed"),
        (make("below", authority("middle", ROOT), uris=(CHAT,)), "unknown_authority"),
        (make("old", ROOT, uris=(CHAT,), ends=-HOUR / 60), "expired"),
    ],
)
def test_a_certificate_that_cannot_be_verified_ends_the_handshake(
    folder: Path, strict: ssl.SSLContext, shown: Cert | None, reason: str
) -> None:
    assert refused(strict, Client(client_context(folder, GATEWAY, shown))) == reason


@pytest.mark.parametrize("tls12", [False, True])
def test_what_came_whole_is_read_and_what_follows_is_an_error_each_time(
    folder: Path, strict: ssl.SSLContext, tls12: bool
) -> None:
    peer = Client(client_context(folder, GATEWAY, CLIENT, tls12=tls12))
    session = connect(strict, peer)
    first, second = peer.say(b"first"), bytearray(peer.say(b"second"))
    second[-1] ^= 1
    session.feed(first + second)
    assert session.read() == b"first"
    for _ in range(3):
        with pytest.raises(TlsError):
            session.read()
