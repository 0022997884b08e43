"""Cedar policy text as tokens and statements, to say *where* something is wrong.

Cedar's Python binding reports parse errors without a place ("unexpected token `7`"). The scanner
here follows the lexical rules of the Cedar grammar (https://docs.cedarpolicy.com/policies/
syntax-grammar.html: identifiers, integers, strings with backslash escapes, `//` comments) just far
enough to split a file into statements and to find the token that the real parser stumbled over.
It decides nothing: what a policy means is always what Cedar's own parser says. A string that has no
end is one token up to the end of the file, so that no text is read twice.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

SCALE: Final = 10_000  # Cedar has no floats: decimals are whole numbers times this
I64_MAX: Final = 2**63 - 1
_LARGEST: Final = str(I64_MAX)
MAX_TOKENS: Final = 5000  # of one policy
MAX_DEPTH: Final = 64  # of brackets
MAX_QUOTED: Final = 1000  # characters of a name in a message of Cedar's

_OPENING: Final = frozenset("([{")
_CLOSING: Final = frozenset(")]}")
_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+|//[^\n\r]*)
    | (?P<float>\d+\.\d+|(?<![\w)\]"])\.\d+)
    | (?P<string>"(?:\\.|[^"\\])*+")
    | (?P<open>".*)
    | (?P<word>[A-Za-z_]\w*|\d+)
    | (?P<mark>::|==|!=|<=|>=|&&|\|\||.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token: its kind (`float`, `string`, `open` (a string without end), `word`,
    `mark`), text and offset in the file."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One policy's tokens, up to and including its `;` (absent where the file ends first)."""

    tokens: tuple[Token, ...]

    @property
    def start(self) -> int:
        """Offset of the first token."""
        return self.tokens[0].start

    def text(self, count: int | None = None) -> str:
        """The first `count` tokens as text that Cedar can parse, float literals already scaled.

        Tokens are joined by single spaces, except that adjacent marks stay adjacent, so that what
        Cedar reads as one operator is still one.
        """
        parts: list[str] = []
        end = -1
        for token in self.tokens[:count]:
            if token.start != end:
                parts.append(" ")
            parts.append(scaled(token.text) if token.kind == "float" else token.text)
            end = token.start + len(token.text)
        return "".join(parts)

    def excess(self) -> tuple[Token, str] | None:
        """Where the policy is too big to be handed to Cedar, and why; or None.

        Cedar's parser works by recursion and takes the process down where the stack ends: about
        1,000 brackets, or some thousands of tokens in one chain.
        """
        depth = 0
        for token in self.tokens:
            if token.kind == "mark":
                depth += (token.text in _OPENING) - (token.text in _CLOSING)
            if depth > MAX_DEPTH:
                return token, f"brackets nested more than {MAX_DEPTH} deep"
        if len(self.tokens) > MAX_TOKENS:
            return self.tokens[MAX_TOKENS], f"more than {MAX_TOKENS} words and marks in one policy"
        return None

    def floats(self) -> Iterator[Token]:
        """The float literals."""
        return (token for token in self.tokens if token.kind == "float")


def scaled(literal: str) -> str:
    """The whole number to write for a float literal: `0.7` → `7000` (rounded half up)."""
    whole = (Decimal(literal) * SCALE).to_integral_value(rounding="ROUND_HALF_UP")
    return f"{whole:f}"  # an `int` of thousands of digits has no text


def statements(text: str) -> list[Statement]:
    """Split a policy file into statements. Never fails: unknown characters are marks."""
    found: list[Statement] = []
    current: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        if kind == "space":
            continue
        current.append(Token(kind=kind, text=match.group(), start=match.start()))
        if match.group() == ";" and kind == "mark":
            found.append(Statement(tokens=tuple(current)))
            current = []
    if current:
        found.append(Statement(tokens=tuple(current)))
    return found


class Places:
    """Turns offsets of a text into 1-based lines and columns (in characters)."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset."""
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


def find_error(statement: Statement, parse: Callable[[str], str | None]) -> int:
    """Offset of the token at which parsing the statement fails.

    `parse` returns the parser's message, or None where the text parses. A syntax error is found
    by halving: the shortest run of tokens that fails for another reason than ending too early. An
    error of meaning (an unknown function) shows only on the whole statement; it is looked for by
    the names in the message.
    """
    tokens = statement.tokens
    low, high = 0, len(tokens)  # low tokens are fine so far, high tokens fail
    while high - low > 1:
        middle = (low + high) // 2
        message = parse(statement.text(middle))
        if message is None or "unexpected end of input" in message:
            low = middle
        else:
            high = middle
    message = parse(statement.text()) or ""
    if "integer parse error" in message:  # noticed only at the token behind the number
        for token in tokens:
            digits = token.text.lstrip("0")
            if token.text.isdecimal() and (len(digits), digits) > (len(_LARGEST), _LARGEST):
                return token.start
    if high < len(tokens):
        return tokens[high - 1].start
    ended = "unexpected end of input" in message or tokens[-1].kind == "open"
    return find_mention(statement, message, default=tokens[-1].start if ended else None)


def find_mention(statement: Statement, message: str, *, default: int | None = None) -> int:
    """Offset of the token that a message of Cedar's speaks of, else `default` (or the start).

    Messages quote names in backquotes: `claims.nope`, `Lucid::Action::"x"`, `policy0`. The last
    word of the quoted name is what to look for; the longest match in the policy wins.
    """
    for quoted in re.findall(r"`([^`]+)`", message):
        words = re.findall(r'"(?:\\.|[^"\\])*+"|\w+', quoted[:MAX_QUOTED])
        for word in reversed(words):
            spellings = {word, f'"{word}"'}
            for token in statement.tokens:
                if token.text in spellings:
                    return token.start
    return statement.start if default is None else default
