"""Puts a chain together from loose certificates: files of a user, or the host's table.

What is chosen here is not trusted by that: the chain is verified as a whole afterwards. Only where
two certificates have the same name (AMD issued one intermediate anew after it revoked the first)
are signatures looked at, to take the one that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificates import name_text
from attestation.errors import AttestationError, MalformedError, UncheckableError
from attestation.snp.certs import Certificate, Chain
from attestation.snp.chain import check_signatures
from attestation.snp.table import MAX_CERTIFICATE_SIZE

MAX_CERTIFICATES = 16


def split_certificates(data: bytes) -> list[bytes]:
    """The DER certificates of a file: one in DER, or one or more in PEM.

    Raises:
        MalformedError: `snp.certs.certificate`: none, too many, or not certificates.
    """
    if len(data) > MAX_CERTIFICATES * MAX_CERTIFICATE_SIZE:
        raise MalformedError("snp.certs.length", f"{len(data)} bytes are too long for a chain")
    if b"-----BEGIN" not in data:
        return [data]
    try:
        found = x509.load_pem_x509_certificates(data)
        if len(found) > MAX_CERTIFICATES:
            raise MalformedError("snp.certs.certificate", f"{len(found)} certificates in one file")
        return [certificate.public_bytes(Encoding.DER) for certificate in found]
    except ValueError as error:
        raise MalformedError("snp.certs.certificate", f"not PEM certificates: {error}") from None


def collect_chain(ek: bytes | None, others: Iterable[bytes]) -> Chain:
    """The chain of an endorsement key.

    Args:
        ek: VCEK or VLEK, DER or PEM, in which a chain may follow; None: the host gave none.
        others: intermediates and roots, in any order; those that do not fit are left out.

    Raises:
        UncheckableError: `snp.chain.missing`: a certificate is not there.
        MalformedError: `snp.certs.*`: one that is there is not a certificate of AMD's kind.
    """
    if ek is None:
        raise _missing("no endorsement key (VCEK or VLEK)", "--endorsement-key")
    ek_der, *with_it = split_certificates(ek)
    leaf = Certificate.parse(ek_der, "VCEK or VLEK")
    known = [Certificate.parse(der, "certificate of the chain") for der in (*with_it, *others)]
    icas = [c for c in known if c.subject_der == leaf.issuer_der and c.issuer_der != c.subject_der]
    if not icas:
        raise _missing(
            f"no intermediate (ASK or ASVK) {name_text(leaf.issuer)}, which issued"
            f" {name_text(leaf.subject)}",
            "--chain",
        )
    arks = [
        c for c in known if c.subject_der == c.issuer_der and c.subject_der == icas[0].issuer_der
    ]
    if not arks:
        raise _missing(f"no root (ARK) {name_text(icas[0].issuer)}", "--chain")
    chains = [Chain.parse(ark=ark.der, ica=ica.der, ek=ek_der) for ica in icas for ark in arks]
    return _fitting(chains)


def _fitting(chains: Sequence[Chain]) -> Chain:
    for chain in chains[:-1]:
        try:
            check_signatures(chain)
        except AttestationError:
            continue
        return chain
    return chains[-1]


def _missing(what: str, option: str) -> UncheckableError:
    return UncheckableError(
        "snp.chain.missing",
        f"there is {what}",
        remedy=f"give it ({option}), or the host's certificate table with the report",
    )
