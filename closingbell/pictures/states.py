"""The states of a cell: their order, their colours, and what to do about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class State:
    """One state that a cell can be in.

    Attributes:
        name: as in DESIGN's list of reasons, and in ``gap.reason``.
        colour: red, green, blue; 0 to 255.
        means: in a few words.
        do: the next command; empty: there is none.
        note: what to know of it, or what happens without one.
    """

    name: str
    colour: tuple[int, int, int]
    means: str
    do: str = ""
    note: str = ""


#: Every state, from what needs nothing to what needs somebody most: of several in one place the last one is shown, so
#: that no failure hides behind what is stored. The colours of what is in order are pale and those of trouble are not;
#: they stay apart for readers who do not see red, green or blue (a test computes it), after M. Okabe and K. Ito,
#: *Color Universal Design* (2008).
STATES: Final = (
    State("no session", (255, 255, 255), "no cell: the ticker's calendar has no session"),
    State("stored", (178, 212, 240), "its bar is in the database"),
    State("empty", (203, 197, 178), "the vendor answered, and has no bar"),
    State("not asked for", (243, 243, 243), "outside of what was ever asked for", "closingbell ingest"),
    State(
        "unpublished",
        (86, 180, 60),
        "the vendor has not published it yet",
        note="nothing: the next run asks again",
    ),
    State("pending", (240, 205, 30), "nobody has asked yet", "closingbell retry all"),
    State(
        "unentitled",
        (90, 20, 90),
        "the key's plan does not include it",
        "closingbell ingest --ask-again",
        "once the plan does",
    ),
    State(
        "quarantined",
        (0, 114, 178),
        "a bar came and broke a rule",
        "closingbell status TICKER",
        "names the rule",
    ),
    State("failed", (205, 60, 0), "its call failed after all retries", "closingbell retry all"),
    State("unexplained", (0, 0, 0), "neither a bar nor a gap, or both", "closingbell doctor"),
)

#: The positions of the states in :data:`STATES`, by name.
CODES: Final = {state.name: code for code, state in enumerate(STATES)}

#: Those that are cells and ought to have a bar or a reason, as a picture's legend lists them.
CELLS: Final = tuple(state for state in STATES if state.name != "no session")
