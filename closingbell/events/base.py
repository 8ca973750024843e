"""What a detector is, and the column block of what it finds."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import Bars

#: One event. ``ts`` is the opening (UTC) of the bar that confirms it, ``session`` that bar's; ``kind`` a position in
#: :attr:`Detector.kinds`; ``first_ts`` the opening of the first bar that it was computed from, ``bars`` how many these
#: are, first and last included. ``upper`` and ``lower`` are the prices of its two lines at ``ts``, the slopes are in
#: price a bar, ``apex_bars`` is in how many bars they meet; NaN where a detector has no such number.
EVENT: Final = np.dtype(
    [
        ("ts", "M8[us]"),
        ("session", "M8[D]"),
        ("kind", np.int16),
        ("first_ts", "M8[us]"),
        ("bars", np.int32),
        ("upper", np.float64),
        ("upper_slope", np.float64),
        ("lower", np.float64),
        ("lower_slope", np.float64),
        ("apex_bars", np.float64),
    ]
)

#: The numbers of an event, in table order.
NUMBERS: Final = ("upper", "upper_slope", "lower", "lower_slope", "apex_bars")


class Detector(Protocol):
    """Finds events in the bars of one ticker.

    Its law: whether there is an event at a bar, and each of its numbers to the bit, depends on that bar and on the
    ``warm_up`` bars before it, and on nothing else. So nothing that comes later changes an event, a history that is
    worked through in chunks gives what the whole gives, and a bar that changes can change only the events at it and at
    the ``warm_up`` bars after it.
    """

    @property
    def name(self) -> str:
        """As it is called in tables and on the command line, at most 32 characters."""

    @property
    def version(self) -> str:
        """Its revision and its parameters, at most 40 characters: another version's events are others."""

    @property
    def warm_up(self) -> int:
        """How many bars before the one that confirms it an event may be computed from."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its events, at most 32 characters each."""

    def detect(self, bars: Bars) -> NDArray[np.void]:
        """The events in some bars.

        Args:
            bars: of one ticker, by ``ts``, each instant once.

        Returns:
            shape (events,), dtype :data:`EVENT`, by ``ts``.
        """
