"""Generated secrets that the built-in detectors know, and the pieces that nobody may see."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from random import Random

PIECE = 6  # characters
# Journals and databases hold hashes, times and ids, in which six given digits happen by chance.
DIGITS_BY_CHANCE = 13

_LETTERS = "ghjkmnpqrstvwxyz"  # none of them hexadecimal
_MIXED = _LETTERS + _LETTERS.upper() + string.digits


@dataclass(frozen=True)
class Secret:
    """One secret as it is written, and the label under which it is found."""

    label: str
    text: str

    def pieces(self, *, stored: bool = False) -> list[str]:
        """Every piece of six characters that holds part of what is secret in it.

        `stored`: as they are looked for in files, where digits must be more than a coincidence.
        """
        found = []
        for start in range(len(self.text) - PIECE + 1):
            piece = self.text[start : start + PIECE]
            if stored and not any(c in _LETTERS or c in _LETTERS.upper() for c in piece):
                size = DIGITS_BY_CHANCE if self.text.isalnum() else 9
                piece = self.text[start : start + size]
                if len(piece) < size:
                    continue
            found.append(piece)
        return found


def card(rng: Random) -> str:
    digits = [4, *(rng.randrange(10) for _ in range(14))]
    doubled = [d * 2 - 9 * (d * 2 > 9) if i % 2 == 0 else d for i, d in enumerate(digits)]
    return "".join(map(str, [*digits, -sum(doubled) % 10]))


def _grouped(text: str, size: int, mark: str) -> str:
    return mark.join(text[i : i + size] for i in range(0, len(text), size))


def _email(rng: Random) -> str:
    local = "".join(rng.choices(_LETTERS, k=rng.randint(7, 14)))
    return f"{local}@{''.join(rng.choices(_LETTERS, k=rng.randint(7, 12)))}.net"


def _iban(rng: Random) -> str:
    account = "".join(rng.choices(string.digits, k=18))
    check = 98 - int(account + "131400") % 97  # D is 13, E is 14
    text = f"DE{check:02d}{account}"
    return rng.choice((text, _grouped(text, 4, " ")))


def _ssn(rng: Random) -> str:
    return f"{rng.randint(100, 599)}-{rng.randint(11, 99)}-{rng.randint(1001, 9998)}"


def _phone(rng: Random) -> str:
    line = f"{rng.randint(200, 999)}", f"{rng.randint(200, 999)}", f"{rng.randint(1000, 9999)}"
    return rng.choice(("({}) {}-{}", "+1 {} {} {}", "+1-{}-{}-{}")).format(*line)


def _api_key(rng: Random) -> str:
    tail = "".join(rng.choices(_MIXED, k=40))
    return rng.choice((f"sk-{tail}", f"ghp_{tail[:36]}", f"hf_{tail[:34]}"))


_KINDS = {
    "email": _email,
    "card": lambda rng: rng.choice((str, lambda c: _grouped(c, 4, " ")))(card(rng)),
    "iban": _iban,
    "ssn": _ssn,
    "phone": _phone,
    "api_key": _api_key,
}


def secret(rng: Random, *, label: str | None = None) -> Secret:
    """A secret of a random kind, or of this one."""
    label = label or rng.choice(list(_KINDS))
    return Secret(label, _KINDS[label](rng))


_OURS = re.compile(rb"(?:dec|pass|req)-[0-9a-f]+")


def found_in(data: bytes, secret: Secret, *, stored: bool = False) -> str | None:
    """A piece of the secret in bytes, or None. Ids that the agent makes are left out: they are
    hexadecimal, and six digits of a card happen in them by chance.
    """
    data = _OURS.sub(b"", data)
    for piece in secret.pieces(stored=stored):
        if piece.encode() in data:
            return piece
    return None
