"""Finders of personal data: e-mail, payment card, US social security number, IBAN, telephone."""

from __future__ import annotations

from collections.abc import Iterator

from enforcement.detectors import patterns, validators
from enforcement.detectors.budget import Budget

Found = Iterator[tuple[int, int]]  # start and end, in code points


def emails(text: str, budget: Budget) -> Found:
    """Addresses, also internationalised ones (RFC 6531). Not `git@host`, not file names."""
    at = text.find("@")
    while at != -1:
        if text.find(".", at + 1, at + patterns.MAX_DOMAIN) == -1:
            at = text.find("@", at + 1)
            continue
        budget.spend(max(0, at - patterns.MAX_LOCAL))
        start = at
        while start > 0 and at - start < patterns.MAX_LOCAL and _is_local(text[start - 1]):
            start -= 1
        while start < at and text[start] in "./'`=-*|":  # quoting, assignments and paths
            start += 1
        match = patterns.DOMAIN.match(text[at + 1 : at + 1 + patterns.MAX_DOMAIN])
        if match and start < at:
            domain = match.group()
            ending = domain.rpartition(".")[2].lower()
            if len(ending) >= 2 and ending not in patterns.FILE_ENDINGS and text[start:at] != "git":
                yield start, at + 1 + len(domain)
        at = text.find("@", at + 1)


def _is_local(character: str) -> bool:
    return character.isalnum() or character in patterns.LOCAL_MARKS


def cards(text: str, budget: Budget) -> Found:
    """13 to 19 digits of a card network with a valid check digit: in one piece, in groups of 3 to
    7, or spelt in groups of 1 or 2 (then the whole spelling must be the number)."""
    for run in patterns.DIGIT_RUN.finditer(text):
        groups = _groups(text, run.start(), run.end())
        small = [end - start <= 2 for start, end in groups]
        for first, (start, end) in enumerate(groups):
            if end - start > 19 or (small[first] and first and small[first - 1]):
                continue
            if text[start] not in "23456":
                continue
            budget.spend(start)
            last = _card_end(text, groups, small, first)
            if last is not None:
                yield start, last


def _card_end(
    text: str, groups: list[tuple[int, int]], small: list[bool], first: int
) -> int | None:
    """End of the longest card number that begins with a group, or None."""
    found = None
    digits = ""
    start = groups[first][0]
    for index in range(first, len(groups)):
        begin, end = groups[index]
        if index > first and (small[index] != small[first] or end - begin > 7):
            break
        digits += text[begin:end]
        if len(digits) > 19:
            break
        spelt_on = small[first] and index + 1 < len(groups) and small[index + 1]
        if (
            len(digits) >= 13
            and not spelt_on
            and _stands_alone(text, start, end)
            and validators.card_issuer(digits)
            and validators.luhn(digits)
        ):
            found = end
        if not small[first] and end - begin > 7:
            break
    return found


def _groups(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The unbroken digits of a run."""
    groups: list[tuple[int, int]] = []
    begin = start
    for position in range(start, end + 1):
        if position == end or not "0" <= text[position] <= "9":
            if position > begin:
                groups.append((begin, position))
            begin = position + 1
    return groups


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Not part of a longer word, nor of a decimal fraction."""
    if start and (text[start - 1].isalnum() or text[start - 1] == "_"):
        return False
    if start > 1 and text[start - 1] == "." and text[start - 2].isdigit():
        return False
    return end == len(text) or not (text[end].isalnum() or text[end] == "_")


def ssns(text: str, budget: Budget) -> Found:
    """`123-45-6789` with one kind of separator, or nine digits that are called an SSN."""
    for match in patterns.SSN.finditer(text):
        area, one, group, two, serial = match.groups()
        start, end = match.span()
        budget.spend(start)
        if one == two and _unconnected(text, start, end) and validators.ssn(area, group, serial):
            yield start, end
    for match in patterns.SSN_NAMED.finditer(text):
        budget.spend(match.start())
        if validators.ssn(*match.groups()):
            yield match.start(1), match.end(3)


def _unconnected(text: str, start: int, end: int) -> bool:
    """Neither side goes on with a word, or with a dash or dot and a digit."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before and (before[-1].isalnum() or before[-1] in "_+"):
        return False
    if len(before) == 2 and before[1] in "-." and before[0].isdigit():
        return False
    if after and (after[0].isalnum() or after[0] == "_"):
        return False
    return not (len(after) == 2 and after[0] in "-." and after[1].isdigit())


def ibans(text: str, budget: Budget) -> Found:
    """Country, check digits and account, with at most one separator between characters."""
    for match in patterns.IBAN_START.finditer(text):
        start, position = match.span()
        budget.spend(start)
        characters = match.group()
        size = validators.IBAN_LENGTHS.get(characters[:2].upper(), 0)
        while len(characters) < size and position < len(text):
            character = text[position]
            if not (character.isascii() and character.isalnum()):
                position += 1
                if character not in " -\u00a0\u202f\u2011" or position == len(text):
                    break
                character = text[position]
                if not (character.isascii() and character.isalnum()):
                    break
            characters += character
            position += 1
        ended = position == len(text) or not text[position].isalnum()
        if size and ended and validators.iban(characters):
            yield start, position


def phones(text: str, budget: Budget) -> Found:
    """E.164 numbers with `+` or `00`, North American ones that are written as such, and numbers
    that are called a telephone number. A bare run of ten digits is not one."""
    for match in patterns.INTERNATIONAL.finditer(text):
        start, end = match.span()
        budget.spend(start)
        if not _unconnected(text, start, end):
            continue
        if text[start] == "0":  # `00…` may be any number: it must be grouped, and begin a group
            behind_digits = start > 1 and text[start - 2].isdigit()
            if behind_digits or match.group().isdigit():
                continue
        yield start, end
    for match in patterns.NANP.finditer(text):
        start, end = match.span()
        budget.spend(start)
        area_apart, line_apart = not match.group(1).isdigit(), bool(match.group(2))
        written = area_apart or (match.group().startswith("+") and not line_apart)
        if written and _unconnected(text, start, end):
            yield start, end
    for match in patterns.PHONE_NAMED.finditer(text):
        start, end = match.span(1)
        budget.spend(start)
        if end == len(text) or not text[end].isalnum():
            yield start, end
