"""JSON Web Tokens (RFC 7519) as callers: strict, and with nothing left to the token itself.

Every issuer has its own keys, audience and algorithms; a token's `iss` chooses among them, and then
everything else must fit. What makes tokens dangerous is decided here and not by the token:

* algorithms are an allow-list of asymmetric ones (`none` and HMAC cannot be configured), and the
  key's own type must be that of the algorithm, so a public key is never taken for a secret;
* `kid` names the key; without one, the issuer must have exactly one key that fits. A key that a
  token brings along (`jwk`, `jku`, `x5c`, `x5u`) is not looked at, `crit` is refused;
* `exp`, `iss`, `aud` and the claim that names the caller must be there; `nbf` and `iat` are checked
  where they are. Clocks may differ by `leeway`.

Signatures are PyJWT's (2.13 closed the last confusion of keys, GHSA-xgmm-8j9v-c9wx); its fetching
of keys is not used, because it blocks. A token that was valid is remembered, by its SHA-256, until
it ends or its issuer's keys change: a signature costs as much as a decision.

Source: RFC 7519 section 4.1, RFC 8725 (best practices), RFC 9068 (groups and roles).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt
import msgspec

from enforcement.identity.callers import Caller, Kind
from enforcement.identity.token_rules import ALGORITHMS
from enforcement.policy.vocabulary import LIMITS, is_unicode

MAX_TOKEN: Final = 16 * 1024  # bytes
MAX_GROUPS: Final = 256  # of one caller
MAX_KEYS: Final = 64  # of one issuer
REMEMBERED: Final = 4096  # tokens
MIN_RSA_BITS: Final = 2048


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes tokens, and what is believed of them.

    Attributes:
        issuer: `iss`, exactly.
        audience: one of these must be in `aud`.
        algorithms: those that are accepted, of ALGORITHMS.
        principal_claim: the claim whose value is the principal's id.
        groups_claim: a list of group names; empty: none are read.
        leeway: seconds that clocks may differ.
    """

    issuer: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    kind: Kind = "User"
    principal_claim: str = "sub"
    groups_claim: str = "groups"
    leeway: float = 30.0


class _Key(msgspec.Struct, frozen=True):
    kid: str | None
    kind: tuple[str, str | None]
    algorithm: str | None
    key: Any  # a public key of `cryptography`


class TokenError(Exception):
    """A token that is not believed. `code` is stable; nothing of the token is in it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class KeySet:
    """The public keys of one issuer. Immutable."""

    def __init__(self, keys: Sequence[_Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, algorithm: str, kid: str | None) -> Any:
        """The one key that a token with this header may be signed with.

        Raises:
            TokenError: `key_unknown`, or `key_ambiguous` where a token without `kid` could mean
                several.
        """
        fitting = [
            key
            for key in self._keys
            if key.kind == ALGORITHMS[algorithm]
            and key.algorithm in (None, algorithm)
            and (kid is None or key.kid == kid)
        ]
        if not fitting:
            raise TokenError("key_unknown")
        if len(fitting) > 1:
            raise TokenError("key_ambiguous")
        return fitting[0].key


def read_keys(document: bytes) -> KeySet:
    """Read a JWK Set (RFC 7517). Keys that are not for signatures, or of a kind that is not known,
    are left out; secret keys are refused: a set with one was not meant to be public.

    Raises:
        ValueError: it is none, or has no key that can be used. Nothing of it is in the message.
    """
    try:
        listed = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("not a JSON object") from None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise ValueError("not a JWK Set: `keys` is not a list of objects")
    if len(listed) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    keys = [key for entry in listed if (key := _read_key(entry)) is not None]
    if not keys:
        raise ValueError("no key in it can verify a signature of a known algorithm")
    named = [key.kid for key in keys if key.kid is not None]
    if len(set(named)) != len(named):
        raise ValueError("two keys have the same kid")
    return KeySet(keys)


def _read_key(entry: Mapping[str, Any]) -> _Key | None:
    if "d" in entry or entry.get("kty") == "oct":
        raise ValueError("there is a secret key in it")
    uses = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return None
    kid, algorithm = entry.get("kid"), entry.get("alg")
    kind = (entry.get("kty"), entry.get("crv"))
    fitting = [name for name, needed in ALGORITHMS.items() if needed == kind]
    if not fitting or (algorithm is not None and algorithm not in fitting):
        return None
    if kid is not None and not isinstance(kid, str):
        return None
    try:
        key = jwt.PyJWK(dict(entry), algorithm=algorithm or fitting[0]).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if getattr(key, "key_size", MIN_RSA_BITS) < MIN_RSA_BITS and kind[0] == "RSA":
        return None
    return _Key(kid, ALGORITHMS[fitting[0]], algorithm, key)


class _Known(msgspec.Struct, frozen=True):
    """A token that was valid. `begins`, `ends`: seconds since 1970, leeway included."""

    caller: Caller
    issuer: str
    keys: KeySet
    begins: float
    ends: float


class TokenVerifier:
    """Tells whom tokens name.

    Args:
        issuers: each with a function that gives its keys of the moment; None: there are none now.
        now: seconds since 1970.
        missed: told the issuer where a token names a key that is not there: new keys may be.

    Attributes:
        refused: tokens that were not believed, by code.
    """

    def __init__(
        self,
        issuers: Sequence[tuple[Issuer, Callable[[], KeySet | None]]],
        *,
        now: Callable[[], float],
        missed: Callable[[str], None] = lambda _issuer: None,
    ) -> None:
        self._issuers = {issuer.issuer: (issuer, keys) for issuer, keys in issuers}
        self._now = now
        self._missed = missed
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self.refused: dict[str, int] = {}

    def caller(self, token: bytes, /) -> Caller | None:
        """Whom the token names, or None: it is not valid. Counts why."""
        try:
            return self.verify(token)
        except TokenError as error:
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            return None

    def verify(self, token: bytes) -> Caller:
        """Whom the token names.

        Raises:
            TokenError: it is not believed.
        """
        if len(token) > MAX_TOKEN:
            raise TokenError("too_large")
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        if known is None or self._issuers[known.issuer][1]() is not known.keys:
            known = self._verify(token)
            self._known[digest] = known
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        now = self._now()
        if now < known.begins:
            raise TokenError("not_yet_valid")
        if now >= known.ends:
            raise TokenError("expired")
        return known.caller

    def _verify(self, token: bytes) -> _Known:
        """Everything but the time."""
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise TokenError("malformed") from None
        if not isinstance(claimed, str) or claimed not in self._issuers:
            raise TokenError("issuer_unknown")
        issuer, keys_now = self._issuers[claimed]
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in issuer.algorithms:
            raise TokenError("algorithm_refused")
        if "crit" in header or not isinstance(kid, (str, type(None))):
            raise TokenError("malformed")
        keys = keys_now()
        if keys is None:
            self._missed(issuer.issuer)
            raise TokenError("keys_unavailable")
        try:
            key = keys.find(algorithm, kid)
        except TokenError:
            self._missed(issuer.issuer)
            raise
        claims = _signed_claims(token, key, algorithm, issuer)
        caller = Caller(
            (issuer.kind, _name(claims.get(issuer.principal_claim))), _groups(claims, issuer)
        )
        begins = max(_time(claims, "nbf", 0.0), _time(claims, "iat", 0.0)) - issuer.leeway
        ends = _time(claims, "exp", None) + issuer.leeway
        return _Known(caller, issuer.issuer, keys, begins, ends)


def _signed_claims(token: bytes, key: Any, algorithm: str, issuer: Issuer) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=list(issuer.audience),
            issuer=issuer.issuer,
            options={
                "require": ["exp", "iss", "aud", issuer.principal_claim],
                # Time is judged by the clock that was passed in, each time the token is shown.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            },
        )
    except jwt.InvalidSignatureError:
        raise TokenError("signature_invalid") from None
    except jwt.InvalidAudienceError:
        raise TokenError("audience_wrong") from None
    except jwt.MissingRequiredClaimError:
        raise TokenError("claim_missing") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise TokenError("malformed") from None


def _time(claims: Mapping[str, Any], name: str, default: float | None) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        raise TokenError("malformed")
    return float(value)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LIMITS.id or not is_unicode(value):
        raise TokenError("principal_malformed")
    return value


def _groups(claims: Mapping[str, Any], issuer: Issuer) -> tuple[str, ...]:
    if not issuer.groups_claim:
        return ()
    listed = claims.get(issuer.groups_claim, [])
    if not isinstance(listed, list) or len(listed) > MAX_GROUPS:
        raise TokenError("groups_malformed")
    for group in listed:
        if not isinstance(group, str) or not 0 < len(group) <= LIMITS.id or not is_unicode(group):
            raise TokenError("groups_malformed")
    return tuple(sorted(set(listed)))
