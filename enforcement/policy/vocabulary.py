"""The claims that policies may speak of: names, types, phases, and where each comes from.

A claim is a named, typed value about one request or reply (`pii_found`, `injection_risk`). The
vocabulary is the `[claims.*]` tables of `bundle.toml`; the Cedar schema is generated from it
(`schema`). Everything that reaches the Cedar context passes `Vocabulary.check`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Final

from attestation.records import ClaimValue
from enforcement.outcome import Phase
from enforcement.policy.cedar_text import I64_MAX, SCALE

AUTHZEN: Final = "authzen:"  # before the place in an AuthZEN request, in `sources`
AUDITOR: Final = "auditor:"  # before the name of an auditor, in `sources`
NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Cedar's reserved words (grammar: IDENT excludes them), and what its JSON form gives a meaning to.
RESERVED_NAMES: Final = frozenset(
    {"true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"}
)
I64_MIN: Final = -(2**63)
# Up to here, a float times 10 000 is so exact that what is this near to a whole number is it.
_SIMPLE: Final = 1000
_NEAR: Final = 1e-6


class ClaimType(StrEnum):
    """How a claim is written in `bundle.toml`. Scores and decimals are Longs times 10 000."""

    BOOL = "bool"
    STRING = "string"
    STRING_LIST = "string_list"
    INTEGER = "integer"
    SCORE = "score"  # 0..1
    DECIMAL = "decimal"

    @property
    def cedar(self) -> str:
        """The Cedar type."""
        return _CEDAR_TYPES[self]


class Merge(StrEnum):
    """What a claim is where several sources give it."""

    ANY = "any"  # true if any says so
    ALL = "all"  # true if all say so
    MAX = "max"
    MIN = "min"
    UNION = "union"
    INTERSECTION = "intersection"


# The rules for each type; the first is the default: for a flag or a risk, the strictest. Strings
# have none: of two languages neither is right, so a string has one source.
MERGES: Final[Mapping[ClaimType, tuple[Merge, ...]]] = {
    ClaimType.BOOL: (Merge.ANY, Merge.ALL),
    ClaimType.STRING: (),
    ClaimType.STRING_LIST: (Merge.UNION, Merge.INTERSECTION),
    ClaimType.INTEGER: (Merge.MAX, Merge.MIN),
    ClaimType.SCORE: (Merge.MAX, Merge.MIN),
    ClaimType.DECIMAL: (Merge.MAX, Merge.MIN),
}

_CEDAR_TYPES: Final = {
    ClaimType.BOOL: "Bool",
    ClaimType.STRING: "String",
    ClaimType.STRING_LIST: "Set<String>",
    ClaimType.INTEGER: "Long",
    ClaimType.SCORE: "Long",
    ClaimType.DECIMAL: "Long",
}

# What the agent gives itself. Other sources are `auditor:<name>`.
BUILTIN_CLAIMS: Final[Mapping[str, ClaimType]] = {
    "pii_found": ClaimType.BOOL,
    "pii_types": ClaimType.STRING_LIST,
    "secret_leaked": ClaimType.BOOL,
    # Content that is not text, which no detector reads. Where a bundle declares neither the kind's
    # own claim nor `content_types`, no policy could see it, and it is refused.
    "content_types": ClaimType.STRING_LIST,  # text, image, audio, video, file, remote
    "has_image": ClaimType.BOOL,
    "has_audio": ClaimType.BOOL,
    "has_video": ClaimType.BOOL,
    "has_file": ClaimType.BOOL,
}
MEDIA_CLAIMS: Final = {kind: f"has_{kind}" for kind in ("image", "audio", "video", "file")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLimits:
    """Bounds on claims and names, so that a context stays small (about 9 µs of CPU per KB)."""

    claims: int = 256  # in one vocabulary
    string: int = 1024  # characters of one string, and of one item of a list
    items: int = 256  # of one list
    list_characters: int = 8192  # of all items of one list together
    id: int = 256  # characters of a principal's or resource's id
    trace_id: int = 128  # characters


LIMITS: Final = ClaimLimits()


class ClaimError(ValueError):
    """A value does not fit its claim. The message names the claim, never the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim of the vocabulary.

    Attributes:
        sources: `builtin` or `auditor:<name>`, each once; or `authzen:<path>`, alone.
        merge: what the claim is where several of them give it; None for one source.
    """

    name: str
    type: ClaimType
    sources: tuple[str, ...]
    phases: frozenset[Phase]
    optional: bool = False
    description: str = ""
    merge: Merge | None = None

    @property
    def auditors(self) -> tuple[str, ...]:
        """The names of the auditors that give it."""
        return tuple(
            source.removeprefix(AUDITOR) for source in self.sources if source.startswith(AUDITOR)
        )

    def merged(self, first: ClaimValue, second: ClaimValue) -> ClaimValue:
        """The claim where two sources gave it. Values are in canonical form.

        Raises:
            ClaimError: there is no rule for it.
        """
        match self.merge, first, second:
            case Merge.ANY, bool(), bool():
                return first or second
            case Merge.ALL, bool(), bool():
                return first and second
            case Merge.UNION, tuple(), tuple():
                return self._texts({*first, *second})
            case Merge.INTERSECTION, tuple(), tuple():
                return self._texts({*first} & {*second})
            case Merge.MAX, int(), int():
                return max(first, second)
            case Merge.MIN, int(), int():
                return min(first, second)
            case _:
                raise ClaimError(f"claim {self.name} has no rule for two values")

    def check(self, value: object) -> ClaimValue:
        """The value in its one canonical form (lists sorted, without repetition).

        Raises:
            ClaimError: wrong type, out of bounds, or text that is not Unicode.
        """
        match self.type:
            case ClaimType.BOOL:
                if isinstance(value, bool):
                    return value
            case ClaimType.STRING:
                if isinstance(value, str):
                    return self._text(value)
            case ClaimType.STRING_LIST:
                if isinstance(value, tuple | list | set | frozenset):
                    return self._texts(value)
            case _:
                if isinstance(value, int) and not isinstance(value, bool):
                    return self._number(value)
        raise ClaimError(f"claim {self.name} is not a {self.type.value}")

    def _number(self, value: int) -> int:
        low, high = (0, SCALE) if self.type is ClaimType.SCORE else (I64_MIN, I64_MAX)
        if not low <= value <= high:
            raise ClaimError(f"claim {self.name} is outside {low} to {high}")
        return int(value)

    def _text(self, value: str) -> str:
        if len(value) > LIMITS.string:
            raise ClaimError(f"claim {self.name} is longer than {LIMITS.string} characters")
        if not is_unicode(value):
            raise ClaimError(f"claim {self.name} is not valid Unicode text")
        return str(value)

    def _texts(self, value: Iterable[object]) -> tuple[str, ...]:
        items: set[str] = set()
        characters = 0
        for count, item in enumerate(value, 1):
            if count > LIMITS.items:
                raise ClaimError(f"claim {self.name} has more than {LIMITS.items} items")
            if not isinstance(item, str):
                raise ClaimError(f"claim {self.name} has an item that is not a string")
            characters += len(item)
            if characters > LIMITS.list_characters:
                raise ClaimError(
                    f"claim {self.name} has more than {LIMITS.list_characters} characters"
                )
            items.add(self._text(item))
        return tuple(sorted(items))


class Vocabulary:
    """The claims of a bundle, by name, in one fixed order (sorted)."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._claims = {claim.name: claim for claim in sorted(claims, key=lambda c: c.name)}
        self._of_phase = {
            phase: tuple(claim for claim in self._claims.values() if phase in claim.phases)
            for phase in Phase
        }
        self._names_of_phase = {
            phase: frozenset(claim.name for claim in claims)
            for phase, claims in self._of_phase.items()
        }

    def __getitem__(self, name: str) -> Claim:
        return self._claims[name]

    def __contains__(self, name: object) -> bool:
        return name in self._claims

    def __len__(self) -> int:
        return len(self._claims)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(self._claims)

    def of_phase(self, phase: Phase) -> tuple[Claim, ...]:
        """The claims that are given in one phase, sorted by name."""
        return self._of_phase[phase]

    def names_of_phase(self, phase: Phase) -> frozenset[str]:
        """The names of the claims that are given in one phase."""
        return self._names_of_phase[phase]

    def scale(self, name: str, value: float) -> int:
        """A number as the Long that policies compare: `0.7` → `7000`.

        Exact on the shortest decimal form of the float (so 0.7 is 7000, not 6999); digits beyond
        the fourth are rounded half to even.

        Raises:
            ClaimError: an unknown claim, one that is not a score or decimal, a value that is not
                a finite number, or one out of range.
        """
        claim = self._claims.get(name)
        if claim is None:
            raise ClaimError(f"claim {name} is not in the vocabulary")
        return scaled(claim, value)


def scaled(claim: Claim, value: object) -> int:
    """`Vocabulary.scale` for a claim at hand.

    Raises:
        ClaimError: see there.
    """
    if claim.type not in {ClaimType.SCORE, ClaimType.DECIMAL}:
        raise ClaimError(f"claim {claim.name} is a {claim.type.value}, which is not scaled")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ClaimError(f"claim {claim.name} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ClaimError(f"claim {claim.name} is not a finite number")
    if abs(value) > I64_MAX:
        raise ClaimError(f"claim {claim.name} is outside {I64_MIN} to {I64_MAX}")
    if abs(value) <= _SIMPLE:  # spares the decimals where they would say the same
        product = value * SCALE
        whole = round(product)
        if abs(product - whole) < _NEAR:
            number = claim.check(whole)
            assert isinstance(number, int)
            return number
    exact = Decimal(repr(value)) * SCALE
    number = claim.check(int(exact.to_integral_value(rounding=ROUND_HALF_EVEN)))
    assert isinstance(number, int)
    return number


def is_unicode(text: str) -> bool:
    """Whether text has a UTF-8 form: no lone surrogates (Cedar's JSON refuses them)."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def name_problem(name: str) -> str | None:
    """Why a claim's name cannot be used, or None. Flat names: `a.b` and `a_b` could collide."""
    if name in RESERVED_NAMES or name.startswith("__"):
        return f"`{name}` is reserved by Cedar"
    if not NAME_PATTERN.fullmatch(name):
        return (
            f"`{name}` is not a claim name (a lower-case letter, then up to 63 lower-case "
            "letters, digits and underscores)"
        )
    return None
