"""Rows that only the database refuses, found by halves: what is refused is cut in two until it stands alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from closingbell.errors import FatalError

#: So many rows refused, with none accepted between them, are reason to ask whether the database takes any at all.
DOUBTFUL: Final = 8

#: More refused rows than this in one flush are no matter of single rows.
MANY: Final = 1_000


class Poison:
    """Finds the rows that cannot be loaded, in about ``2 log2(count)`` loads for each.

    Args:
        load: load the rows from one position up to another one, in addition to those that were loaded before; returns
            why they were refused, and has then loaded none of them. None: they are loaded.
        takes_any: whether there is any row at all that would be taken.
    """

    def __init__(self, load: Callable[[int, int], str | None], takes_any: Callable[[], bool]) -> None:
        self._load = load
        self._takes_any = takes_any
        self._loaded = 0
        self._asked = False
        self.refused: dict[int, str] = {}

    def find(self, count: int) -> dict[int, str]:
        """The positions of the refused ones of ``count`` rows, and what was said of each.

        Raises:
            FatalError: nothing at all is taken, or :data:`MANY` rows are not.
        """
        self._narrow(0, count, known=False)
        if self.refused and not self._loaded:
            self._doubt()
        return self.refused

    def _narrow(self, first: int, end: int, *, known: bool) -> bool:
        """Whether one of these rows is refused; ``known``: one is, as the other half of what was refused is not."""
        alone = end - first == 1
        if alone or not known:
            said = self._load(first, end)
            if said is None:
                self._loaded += end - first
                return False
            if alone:
                self._note(first, said)
                return True
        middle = (first + end) // 2
        left = self._narrow(first, middle, known=False)
        right = self._narrow(middle, end, known=not left)
        return left or right

    def _note(self, position: int, said: str) -> None:
        self.refused[position] = said
        if len(self.refused) >= DOUBTFUL and not self._loaded:
            self._doubt()
        if len(self.refused) > MANY:
            raise too_many(said)

    def _doubt(self) -> None:
        if not self._asked and not self._takes_any():
            raise everything(next(iter(self.refused.values())))
        self._asked = True


def too_many(said: str) -> FatalError:
    """The error of a database that refuses more than :data:`MANY`."""
    return FatalError(
        "the database refuses too many bars",
        value=f"more than {MANY:,} in one answer, the last one with {said!r}",
        fix="Mend or drop the constraint or trigger that says so, then run again: nothing is lost.",
    )


def everything(said: str) -> FatalError:
    """The error of a database that takes nothing at all."""
    return FatalError(
        "the database refuses everything",
        value=repr(said),
        fix="Mend or drop the constraint or trigger that says so, then run again: nothing is lost.",
    )
