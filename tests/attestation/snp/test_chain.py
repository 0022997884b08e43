"""A root and an intermediate without a report: what KDS and lists are judged by."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from attestation.errors import UncheckableError, VerificationError
from attestation.simulated import ca
from attestation.simulated.vendor import SimulatedVendor
from attestation.snp.certs import Certificate
from attestation.snp.chain import check_intermediate, check_root_alone
from attestation.snp.names import AMD, SIMULATED
from attestation.snp.product import EndorsementKey, ProductLine
from tests.attestation.snp.synthetic import NOW, der, make

GENOA, TURIN = ProductLine.GENOA, ProductLine.TURIN
VCEK, VLEK = EndorsementKey.VCEK, EndorsementKey.VLEK
DAY = timedelta(days=1)


class Pair:
    """The intermediate and the root of Genoa, with what they are judged by."""

    def __init__(self, vendor: SimulatedVendor) -> None:
        evidence = make(vendor)
        self.vendor = vendor
        self.ica, self.ark = evidence.chain.ica, evidence.chain.ark
        self.roots = evidence.roots

    def judge(self, **changes: Any) -> None:
        asked: dict[str, Any] = {
            "ica": self.ica,
            "ark": self.ark,
            "line": GENOA,
            "key": VCEK,
            "roots": self.roots,
            "now": NOW,
        }
        check_intermediate(**(asked | changes))

    def code(self, **changes: Any) -> str:
        with pytest.raises(VerificationError) as caught:
            self.judge(**changes)
        return caught.value.code

    def issued(
        self,
        name: str,
        *,
        issuer: str = SIMULATED.ark(GENOA),
        by_root: bool = True,
        extensions: Any = None,
    ) -> Certificate:
        """The intermediate issued anew."""
        key = self.vendor.root_key if by_root else self.vendor.intermediate_key
        kept = [(e.value, e.critical) for e in self.ica.extensions]
        certificate = ca.issue(
            subject=name,
            public_key=self.vendor.intermediate_key.public_key(),
            issuer=ca.Issuer(common_name=issuer, key=key),
            now=NOW,
            extensions=kept if extensions is None else extensions,
        )
        return Certificate.parse(der(certificate), "ASK")


@pytest.fixture
def pair(simulated_vendor: SimulatedVendor) -> Pair:
    return Pair(simulated_vendor)


def test_the_intermediate_of_a_pinned_root_is_accepted(pair: Pair) -> None:
    pair.judge()
    pair.judge(ica=pair.issued(SIMULATED.ica(GENOA, VCEK)))
    check_root_alone(pair.ark, line=GENOA, roots=pair.roots, now=NOW)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"line": TURIN}, "snp.chain.names"),
        ({"key": VLEK}, "snp.chain.names"),
        ({"roots": frozenset({bytes(32)})}, "snp.chain.ark_pinned"),
        ({"now": NOW - 2 * DAY}, "snp.chain.validity"),
        ({"now": NOW + ca.LIFETIME + DAY}, "snp.chain.validity"),
    ],
)
def test_another_line_kind_root_or_time_is_refused(
    pair: Pair, asked: dict[str, Any], code: str
) -> None:
    assert pair.code(**asked) == code


def test_a_root_alone_is_judged_as_one_above_others(pair: Pair) -> None:
    def code(**changes: Any) -> str:
        asked: dict[str, Any] = {"ark": pair.ark, "line": GENOA, "roots": pair.roots, "now": NOW}
        with pytest.raises(VerificationError) as caught:
            check_root_alone(**(asked | changes))
        return caught.value.code

    assert code(now=NOW - 2 * DAY) == "snp.chain.validity"
    assert code(roots=frozenset({bytes(32)})) == "snp.chain.ark_pinned"
    assert code(line=TURIN) == "snp.chain.names"
    bent = Certificate.parse(pair.ark.der[:-1] + bytes((pair.ark.der[-1] ^ 1,)), "ARK")
    assert code(ark=bent) == "snp.chain.signatures"


def test_without_pins_nothing_is_said(pair: Pair) -> None:
    for roots in (frozenset[bytes](), {"Milan": pair.roots}):
        with pytest.raises(UncheckableError, match="no root is pinned"):
            pair.judge(roots=roots)


def test_a_pin_among_amds_does_not_make_the_names_amds(pair: Pair) -> None:
    assert pair.code(roots={"Genoa": pair.roots}) == "snp.chain.names"


def test_neither_stands_for_the_other(pair: Pair) -> None:
    assert pair.code(ica=pair.ark, ark=pair.ica) == "snp.chain.ark_pinned"
    assert pair.code(ica=pair.ark) == "snp.chain.names"


def test_the_root_has_signed_it_under_its_own_name_with_the_right_to_certify(pair: Pair) -> None:
    name = SIMULATED.ica(GENOA, VCEK)
    assert pair.code(ica=pair.issued(name, by_root=False)) == "snp.chain.signatures"
    assert pair.code(ica=pair.issued(name, extensions=[])) == "snp.chain.constraints"
    assert pair.code(ica=pair.issued(name, issuer=SIMULATED.ark(TURIN))) == "snp.chain.names"
    for other in (AMD.ica(GENOA, VCEK), SIMULATED.ica(TURIN, VCEK)):
        assert pair.code(ica=pair.issued(other)) == "snp.chain.names"
