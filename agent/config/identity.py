"""`[identity]`: who may ask."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec

from agent.config.base import Places, Table
from enforcement.identity.token_rules import ALGORITHMS, check_url


class IdentityKey(Table, frozen=True):
    """One `[[identity.keys]]`: a client's API key, as the SHA-256 of its bytes."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    type: Literal["User", "Agent", "APIKey"] = "User"
    groups: tuple[str, ...] = ()  # of a User; beside those of the bundle's entities.json


class TokensTable(Table, frozen=True):
    """One `[[identity.tokens]]`: whose JSON Web Tokens are believed, and what of them.

    `keys`: the issuer's public keys as a JWK Set, in a file or at an https:// address; both are
    read again while the agent runs.
    """

    issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    audience: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    keys: str
    algorithms: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("RS256", "ES256")
    type: Literal["User", "Agent", "APIKey"] = "User"
    principal_claim: str = "sub"
    groups_claim: str = "groups"  # "" reads none
    leeway_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30.0
    refresh_seconds: Annotated[float, msgspec.Meta(ge=30, le=86_400)] = 300.0


class IdentityTable(Table, frozen=True):
    """`[identity]`: who may ask."""

    anonymous: bool = False  # True: requests without a known key are User::"anonymous"
    keys: tuple[IdentityKey, ...] = ()
    keys_file: str = ""  # more of them, one a line: NAME SHA256
    tokens: tuple[TokensTable, ...] = ()

    @property
    def known(self) -> bool:
        """Whether anybody could show who they are, or needs not to."""
        return bool(self.anonymous or self.keys or self.keys_file or self.tokens)

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(
            self,
            keys_file=places.secret(self.keys_file),
            tokens=tuple(
                table
                if "://" in table.keys
                else msgspec.structs.replace(table, keys=places.absolute(table.keys))
                for table in self.tokens
            ),
        )

    def problems(self) -> list[str]:
        """Issuers that stand twice, and what cannot be believed of a token."""
        return _token_problems(self.tokens)


def _token_problems(tables: tuple[TokensTable, ...]) -> list[str]:
    problems = []
    issuers: set[str] = set()
    for table in tables:
        place = f"identity.tokens: {table.issuer}"
        if table.issuer in issuers:
            problems.append(f"{place}: stands there twice")
        issuers.add(table.issuer)
        problems += [
            f"{place}: the algorithm {name!r} is not accepted; known: {', '.join(ALGORITHMS)}"
            for name in table.algorithms
            if name not in ALGORITHMS
        ]
        if table.groups_claim and table.type != "User":
            problems.append(f'{place}: only users have groups; write groups_claim = ""')
        if "://" in table.keys:
            try:
                check_url(table.keys)
            except ValueError as error:
                problems.append(f"{place}: keys: {error}")
    return problems
