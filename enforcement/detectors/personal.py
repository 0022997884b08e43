"""Finders of personal data in folded texts: e-mail, payment card, SSN, IBAN, telephone."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from enforcement.detectors import patterns, validators
from enforcement.detectors.budget import Budget
from enforcement.detectors.patterns import DIGITS, WORD

Found = Iterator[tuple[int, int]]  # start and end
_GROUP: Final = re.compile(rb"[0-9]+")
_UNSPACED: Final = b"\xe3"
_AHEAD: Final = 20  # groups of digits: a card's 19, and whether a spelt number goes on


def emails(text: bytes, budget: Budget) -> Found:
    """Addresses, also internationalised ones (RFC 6531). Not `git@host`, not file names."""
    at = text.find(b"@")
    while at != -1:
        if text.find(b".", at + 1, at + patterns.MAX_DOMAIN) == -1:
            at = text.find(b"@", at + 1)
            continue
        budget.spend(max(0, at - patterns.MAX_LOCAL))
        match = patterns.DOMAIN.match(text, at + 1, at + 1 + patterns.MAX_DOMAIN)
        start = _local_start(text, at)
        if match and start < at:
            end = int(match.end())
            ending = text[text.rindex(b".", at, end) + 1 : end].lower()
            unspaced = ending.startswith(_UNSPACED)
            if (
                (len(ending) >= 2 or unspaced)
                and ending not in patterns.FILE_ENDINGS
                and text[start:at] != b"git"
            ):
                yield start, end
        at = text.find(b"@", at + 1)


def _local_start(text: bytes, at: int) -> int:
    """Where the part before an `@` begins; at the `@` where there is none."""
    before = text[max(0, at - patterns.MAX_LOCAL) : at]
    local = before[len(before.rstrip(patterns.LOCAL)) :]
    local = local.lstrip(b"./'`=-*|")  # quoting, assignments and paths
    # Of a script without blanks either all of it is the address, or the words before it.
    return at - len(local if local.endswith(_UNSPACED) else local.rpartition(_UNSPACED)[2])


def cards(text: bytes, budget: Budget) -> Found:
    """13 to 19 digits of a card network with a valid check digit: in one piece, in groups of 3 to
    7, or spelt in groups of 1 or 2 (then the whole spelling must be the number)."""
    for run in patterns.DIGIT_RUN.finditer(text):
        spelt = False  # whether the group before was a small one
        for groups in _groups(text, run.start(), run.end()):
            start, end = groups[0]
            small = end - start <= 2
            begins = not (small and spelt)
            spelt = small
            if not begins or end - start > 19 or text[start] not in b"23456":
                continue
            budget.spend(start)
            last = _card_end(text, groups)
            if last is not None:
                yield start, last


def _groups(text: bytes, start: int, end: int) -> Iterator[deque[tuple[int, int]]]:
    """Each group of digits, with the 19 behind it: a run may have millions of groups."""
    ahead: deque[tuple[int, int]] = deque()
    for group in _GROUP.finditer(text, start, end):
        ahead.append(group.span())
        if len(ahead) == _AHEAD:
            yield ahead
            ahead.popleft()
    while ahead:
        yield ahead
        ahead.popleft()


def _card_end(text: bytes, groups: Sequence[tuple[int, int]]) -> int | None:
    """End of the longest card number that begins with the first group, or None."""
    found = None
    digits = b""
    start, end = groups[0]
    small, large = end - start <= 2, end - start > 7
    for index in range(min(19, len(groups))):
        begin, end = groups[index]
        if index and (large or (end - begin <= 2) is not small or end - begin > 7):
            break
        digits += text[begin:end]
        if len(digits) > 19:
            break
        if len(digits) < 13:
            continue
        spelt_on = small and index + 1 < len(groups) and _width(groups[index + 1]) <= 2
        if (
            not spelt_on
            and _stands_alone(text, start, end, grouped=index > 0)
            and validators.card(digits.decode())
        ):
            found = end
    return found


def _width(group: tuple[int, int]) -> int:
    return group[1] - group[0]


def _stands_alone(text: bytes, start: int, end: int, *, grouped: bool) -> bool:
    """Not part of a decimal fraction, nor, in one piece, of a longer word (a hash, an id)."""
    if start > 1 and text[start - 1] == ord(".") and text[start - 2] in DIGITS:
        return False
    if grouped:
        return True
    if start and (text[start - 1] in WORD or text[start - 1] == ord("_")):
        return False
    return end == len(text) or not (text[end] in WORD or text[end] == ord("_"))


def ssns(text: bytes, budget: Budget) -> Found:
    """`123-45-6789` with one kind of separator, or nine digits that are called an SSN."""
    for match in patterns.SSN.finditer(text):
        start, end = match.span()
        budget.spend(start)
        number = text[start:end]
        if (
            number[3] == number[6]
            and _unconnected(text, start, end)
            and validators.ssn(number[:3], number[4:6], number[7:])
        ):
            yield start, end
    for match in patterns.SSN_NAMED.finditer(text):
        budget.spend(match.start())
        if validators.ssn(*match.groups()):
            yield match.start(1), match.end(3)


def _unconnected(text: bytes, start: int, end: int) -> bool:
    """Neither side goes on with a word, or with a dash or dot and a digit."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before and (before[-1] in WORD or before[-1] in b"_+"):
        return False
    if len(before) == 2 and before[1] in b"-." and before[0] in DIGITS:
        return False
    if after and (after[0] in WORD or after[0] == ord("_")):
        return False
    return not (len(after) == 2 and after[0] in b"-." and after[1] in DIGITS)


def ibans(text: bytes, budget: Budget) -> Found:
    """Country, check digits and account, with at most one separator between characters."""
    for match in patterns.IBAN_START.finditer(text):
        start = match.start()
        budget.spend(start)
        size = validators.IBAN_LENGTHS.get(text[start : start + 2].decode().upper(), 0)
        if not size:
            continue
        run = _ACCOUNT.match(text, start, min(start + 2 * size, len(text)))
        number = run[0].translate(None, b" -")[:size] if run else b""
        if len(number) < size or not validators.iban(number.decode()):
            continue
        end = start + _length_of(run[0], size) if run else start
        if end == len(text) or text[end] not in WORD:
            yield start, end


_ACCOUNT: Final = re.compile(rb"(?:[0-9A-Za-z][ -]?)*+")


def _length_of(run: bytes, size: int) -> int:
    """How long a beginning of a run holds that many letters and digits."""
    for length, character in enumerate(run, 1):
        size -= character not in b" -"
        if not size:
            return length
    return len(run)


def phones(text: bytes, budget: Budget) -> Found:
    """E.164 numbers with `+` or `00`, North American ones that are written as such, and numbers
    that are called a telephone number. A bare run of ten digits is not one."""
    for match in patterns.INTERNATIONAL.finditer(text):
        start, end = match.span()
        budget.spend(start)
        if not _unconnected(text, start, end):
            continue
        if text[start] == ord("0"):  # `00…` may be any number: it must be grouped, begin a group
            behind_digits = start > 1 and text[start - 2] in DIGITS
            if behind_digits or text[start:end].isdigit():
                continue
        yield start, end
    for match in patterns.NANP.finditer(text):
        start, end = match.span()
        budget.spend(start)
        area_apart, line_apart = not match.group(1).isdigit(), bool(match.group(2))
        written = area_apart or (text[start] == ord("+") and not line_apart)
        if written and _unconnected(text, start, end):
            yield start, end
    for match in patterns.PHONE_NAMED.finditer(text):
        start, end = match.span(1)
        budget.spend(start)
        if end == len(text) or text[end] not in WORD:
            yield start, end
