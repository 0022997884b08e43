"""Characters that make a text read otherwise than it is.

Whoever reviews a policy must see what Cedar reads. Characters that reorder text (bidirectional
overrides), that show nothing (zero-width spaces, soft hyphens) or that some programs take for the
end of a line and Cedar does not, have no place in the files of a bundle; in a string they can be
written as an escape. (Unicode TR 36, "Unicode Security Considerations"; CVE-2021-42574.)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

from enforcement.policy.cedar_text import Places
from enforcement.policy.problems import Problem

# Controls, format characters, and the separators of lines and paragraphs.
_CATEGORIES: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
_PLAIN: Final = "\t\n\r"


def hidden_problems(file: str, text: str) -> Iterator[Problem]:
    """Each such character once, where it stands first."""
    for character in sorted(set(text)):
        if character in _PLAIN or unicodedata.category(character) not in _CATEGORIES:
            continue
        line, column = Places(text).at(text.index(character))
        name = unicodedata.name(character, "a control character")
        yield Problem(
            file=file,
            line=line,
            column=column,
            message=f"U+{ord(character):04X} ({name.lower()}), which a reader does not see",
            fix="save the file without a byte order mark"
            if (line, column, character) == (1, 1, "\ufeff")
            else "take it out, or write it as an escape in a string",
            rule="text.hidden",
        )
