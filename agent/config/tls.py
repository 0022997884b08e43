"""`[gateway.tls]`: the gateway's certificate, and whose certificates it believes."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

import msgspec

from agent.config.base import Places, Table

# SPIFFE-ID, section 2.1.
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")


class TlsTable(Table, frozen=True):
    """`[gateway.tls]`: the gateway speaks TLS where a certificate is named. The files are read
    again when they change, and on SIGHUP.
    """

    certificate_file: str = ""  # PEM: the gateway's own certificate, then what vouches for it
    key_file: str = ""  # PEM; nobody but the agent and root may read it
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    client: Literal["none", "optional", "required"] = "none"  # whether clients show certificates
    # SPIFFE trust domain to a PEM file with its authorities (its trust bundle).
    trust_domains: dict[str, str] = msgspec.field(default_factory=dict)
    client_crl_file: str = ""  # PEM: what those authorities revoked; one list for each
    # Who the caller is where a client shows a certificate (`enforcement.identity.callers`).
    caller: Literal["certificate", "credential", "either"] = "certificate"

    @property
    def wanted(self) -> bool:
        """Whether the gateway speaks TLS."""
        return bool(self.certificate_file)

    @property
    def names_callers(self) -> bool:
        """Whether a client certificate can be all that a client shows."""
        return self.wanted and self.client != "none" and self.caller != "credential"

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(
            self,
            certificate_file=places.secret(self.certificate_file),
            key_file=places.secret(self.key_file),
            client_crl_file=places.absolute(self.client_crl_file),
            trust_domains={name: places.secret(path) for name, path in self.trust_domains.items()},
        )

    def problems(self) -> list[str]:
        """What does not fit together."""
        found = []
        if bool(self.certificate_file) != bool(self.key_file):
            found.append("certificate_file and key_file go together")
        if not self.wanted and self != TlsTable(key_file=self.key_file):
            found.append("nothing of it has an effect without certificate_file")
        if self.client == "none" and (self.trust_domains or self.client_crl_file):
            found.append(
                "trust_domains and client_crl_file are about client certificates:"
                ' set client = "required" or "optional"'
            )
        if self.client != "none" and not self.trust_domains:
            found.append(
                f'client = "{self.client}" needs trust_domains, for example'
                ' trust_domains = { "example.org" = "spiffe-bundle.pem" }'
            )
        found += [
            f"trust_domains: {name!r} is not the name of a SPIFFE trust domain (a-z 0-9 . _ -)"
            for name in self.trust_domains
            if not _TRUST_DOMAIN.fullmatch(name)
        ]
        return [f"gateway.tls: {problem}" for problem in found]
