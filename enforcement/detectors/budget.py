"""How much of a text's candidates one scan looks at."""

from __future__ import annotations


class Exhausted(Exception):  # noqa: N818  # a signal, not an error
    """A text has more candidates than one scan looks at; `at` is the first not looked at."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


class Budget:
    """How many candidates one scan for one label looks at (2 to 5 µs each).

    Without it, a text made of nothing but beginnings of numbers would hold up everybody else.
    """

    def __init__(self, candidates: int = 8_000) -> None:
        self._left = candidates

    def spend(self, at: int) -> None:
        """Take one candidate.

        Raises:
            Exhausted: there is none left.
        """
        self._left -= 1
        if self._left < 0:
            raise Exhausted(at)
