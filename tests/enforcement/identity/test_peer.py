"""How long a client certificate is believed, and whose word it has to be."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from enforcement.identity.callers import Caller, Stranger
from enforcement.identity.peer import LEAVE_SECONDS, Chains, Peer, Trust, chain_of, digest_of
from tests.pki import (
    CHAT,
    DOMAIN,
    HOUR,
    Cert,
    authority,
    make,
    named_by_bits,
    version_2,
)

ROOT = authority()
OTHER = authority("other")
MIDDLE = authority("middle", ROOT, ends=HOUR / 2)
CLIENT = make("chat", ROOT, uris=(CHAT,))
BELOW = make("below", MIDDLE, uris=(CHAT,))
TRUST = Trust(domains={DOMAIN: frozenset({digest_of(ROOT.der)})})


class World:
    def __init__(self, shown: Cert = CLIENT, *chain: Cert, trust: Trust = TRUST) -> None:
        self.now = time.time()
        self.trust = trust
        verified = chain_of([shown.der, *(one.der for one in chain or (ROOT,))])
        self.peer = Peer(shown.der, verified, trust=lambda: self.trust, now=lambda: self.now)

    @property
    def reason(self) -> str:
        """Why it is not believed; empty: it is."""
        caller = self.peer.caller()
        return caller.reason if isinstance(caller, Stranger) else ""


def test_a_workload_is_an_agent() -> None:
    assert World().peer.caller() == Caller(("Agent", CHAT))


def test_it_is_believed_until_its_certificate_ends_and_not_a_second_longer() -> None:
    world = World()
    end = CLIENT.certificate.not_valid_after_utc.timestamp()
    world.now = end - 0.001
    assert world.reason == ""
    world.now = end
    assert world.reason == "certificate.expired"


def test_a_chain_ends_with_the_first_of_its_certificates() -> None:
    world = World(BELOW, MIDDLE, ROOT)
    world.now = MIDDLE.certificate.not_valid_after_utc.timestamp()
    assert world.now < BELOW.certificate.not_valid_after_utc.timestamp()
    assert world.reason == "certificate.expired"


def test_the_connection_is_left_before_the_certificate_ends() -> None:
    world = World()
    end = CLIENT.certificate.not_valid_after_utc.timestamp()
    world.now = end - LEAVE_SECONDS - 10
    assert world.peer.seconds_left() == pytest.approx(10)
    world.now += 10
    assert world.peer.seconds_left() == 0
    assert world.reason == ""  # until then it is still believed


def test_an_authority_that_is_taken_away_takes_its_clients_with_it() -> None:
    world = World()
    world.trust = Trust(domains={DOMAIN: frozenset({digest_of(OTHER.der)})})
    assert world.reason == "certificate.authority"
    assert world.peer.seconds_left() == 0
    world.trust = Trust()
    assert world.reason == "certificate.authority"


def test_one_that_is_added_changes_nothing() -> None:
    world = World()
    world.trust = Trust(domains={DOMAIN: frozenset({digest_of(ROOT.der), digest_of(OTHER.der)})})
    assert world.reason == ""
    assert world.peer.seconds_left() > 0


def test_an_authority_speaks_for_its_own_trust_domain_alone() -> None:
    both = Trust(
        domains={
            DOMAIN: frozenset({digest_of(ROOT.der)}),
            "other.org": frozenset({digest_of(OTHER.der)}),
        }
    )
    theirs = make("x", OTHER, uris=("spiffe://other.org/x",))
    assert World(theirs, OTHER, trust=both).reason == ""
    claims = make("x", OTHER, uris=(CHAT,))
    assert World(claims, OTHER, trust=both).reason == "certificate.authority"


def test_what_is_revoked_is_not_believed() -> None:
    world = World()
    issuer = ROOT.certificate.subject.public_bytes()
    serial = CLIENT.certificate.serial_number
    world.trust = replace(TRUST, revoked=frozenset({(issuer, serial + 1)}))
    assert world.reason == ""
    world.trust = replace(TRUST, revoked=frozenset({(issuer, serial)}))
    assert world.reason == "certificate.revoked"
    assert world.peer.seconds_left() == 0


def test_where_nobody_knows_what_is_revoked_nothing_is_believed() -> None:
    world = World()
    world.trust = replace(TRUST, revocation_ends=world.now + 1)
    assert world.reason == ""
    world.now += 1
    assert world.reason == "certificate.revocation_unknown"


def test_a_certificate_whose_chain_nobody_knows_counts_for_nobody() -> None:
    peer = Peer(CLIENT.der, None, trust=lambda: TRUST, now=time.time)
    caller = peer.caller()
    assert isinstance(caller, Stranger)
    assert peer.seconds_left() == 0


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (make("none", ROOT), "spiffe.no_id"),
        (make("two", ROOT, uris=(CHAT, CHAT + "2")), "spiffe.no_id"),
        (make("web", ROOT, uris=("https://example.org/x",)), "spiffe.malformed"),
        (make("far", ROOT, uris=("spiffe://other.org/x",)), "spiffe.trust_domain"),
        (make("ca", ROOT, uris=(CHAT,), ca=True), "spiffe.is_ca"),
        (make("mute", ROOT, uris=(CHAT,), signs=False), "spiffe.key_usage"),
    ],
)
def test_one_that_names_no_workload_names_nobody(shown: Cert, reason: str) -> None:
    world = World(shown)
    assert world.reason == reason
    caller = world.peer.caller()
    assert isinstance(caller, Stranger)
    assert caller.code == "certificate_refused"


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"0",
        CLIENT.der[:-1],
        CLIENT.der + b"x",
        version_2(CLIENT.der),
        named_by_bits(CLIENT.der, "authority"),
    ],
)
def test_one_that_cannot_be_read_names_nobody(der: bytes) -> None:
    peer = Peer(der, chain_of([CLIENT.der, ROOT.der]), trust=lambda: TRUST, now=time.time)
    caller = peer.caller()
    assert isinstance(caller, Stranger)
    assert caller.reason == "spiffe.malformed"


def test_the_chain_of_a_resumed_session_is_remembered_and_no_other() -> None:
    chains, verified = Chains(), [CLIENT.der, ROOT.der]
    assert chains.of(CLIENT.der, [], resumable=True) is None
    known = chains.of(CLIENT.der, verified, resumable=False)
    assert known == (CLIENT.certificate.not_valid_after_utc.timestamp(), digest_of(ROOT.der))
    assert chains.of(CLIENT.der, [], resumable=True) is None  # TLS 1.3: it never comes again
    assert chains.of(CLIENT.der, verified, resumable=True) == known
    assert chains.of(CLIENT.der, [], resumable=True) == known
    assert chains.of(BELOW.der, [], resumable=True) is None


def test_a_chain_that_cannot_be_read_is_none() -> None:
    assert chain_of([CLIENT.der, b"0"]) is None
    assert chain_of([version_2(CLIENT.der), ROOT.der]) is None
    assert Chains().of(CLIENT.der, [CLIENT.der, b""], resumable=True) is None
