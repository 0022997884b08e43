"""Checks that tell a real number from digits that look like one. Pure functions over text."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

# IBAN lengths by country: SWIFT IBAN Registry (ISO 13616), release 99.
_IBAN_TABLE: Final = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 "
    "DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 "
    "IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 "
    "MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 "
    "SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
IBAN_LENGTHS: Final = {entry[:2]: int(entry[2:]) for entry in _IBAN_TABLE.split()}

# Luhn: digits to their values, and doubled, where the sum of the result's own digits counts.
_VALUES: Final = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B: the check digit of payment cards."""
    raw = digits.encode()
    return (sum(raw[-1::-2].translate(_VALUES)) + sum(raw[-2::-2].translate(_DOUBLED))) % 10 == 0


def card(digits: str) -> bool:
    """Whether 13 to 19 digits are a payment card's number."""
    return luhn(digits) and card_issuer(digits)


def card_issuer(digits: str) -> bool:
    """Whether a number of this beginning and length is issued by a card network.

    Ranges of ISO/IEC 7812 issuer numbers in use: Visa, Mastercard, American Express, Diners Club,
    JCB, Discover, UnionPay, Maestro, Mir. It keeps device numbers (IMEI: 15 digits, Luhn) out.
    """
    size = len(digits)
    two, four = int(digits[:2]), int(digits[:4])
    if digits[0] == "4":
        return size in {13, 16, 19}
    if two in {34, 37}:
        return size == 15
    if two in {36, 38, 39} or 300 <= int(digits[:3]) <= 305:
        return 14 <= size <= 19
    if 3528 <= four <= 3589:
        return 16 <= size <= 19
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return size == 16
    if 2200 <= four <= 2204 or two in {62, 64, 65, 81} or four == 6011:
        return 16 <= size <= 19
    return digits[0] in "56" and 13 <= size <= 19  # Maestro and regional networks


def iban(text: str) -> bool:
    """ISO 13616: the country's length, and the whole number modulo 97 is 1 (ISO 7064)."""
    text = text.upper()
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    number = "".join(str(int(character, 36)) for character in text[4:] + text[:4])
    return int(number) % 97 == 1


def ssn(area: bytes, group: bytes, serial: bytes) -> bool:
    """Whether the US Social Security Administration could have issued the number."""
    return area not in {b"000", b"666"} and area < b"900" and group != b"00" and serial != b"0000"


def placeholder(text: str) -> bool:
    """Whether a password stands for one: `<password>`, `${DB_PASS}`, `***`, `xxx`, `[KEY:abc]`."""
    inner = text.strip("<>{}[]$%()*")
    if len(inner) < 3 or len(set(inner)) == 1:
        return True
    named = inner.isupper() or inner.isidentifier() or inner.partition(":")[0].isupper()
    return inner != text and named


def entropy(text: str) -> float:
    """Shannon entropy in bits per character."""
    size = len(text)
    return -sum(n / size * math.log2(n / size) for n in Counter(text).values()) if size else 0.0


def looks_random(text: str, *, bits: float = 3.0) -> bool:
    """Whether a token looks generated: varied, with letters, and digits or mixed case.

    Placeholders (`xxxxxxxx`, `your-key-here`) and hyphenated words do not.
    """
    if entropy(text) < bits or not any(c.isalpha() for c in text):
        return False
    if any(c.isdigit() for c in text):
        return True
    longest = max(len(word) for word in text.replace("_", "-").split("-"))
    mixed = any(c.islower() for c in text) and any(c.isupper() for c in text[1:])
    return mixed and longest >= 16
