"""The ledger's law, over random sequences of outcomes, against a model that looks at one cell at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from closingbell.bars import BAR, Bars
from closingbell.calendar import calendar_for
from closingbell.cells import Gap, Watermark
from closingbell.healing import is_due
from closingbell.outcome import Outcome
from closingbell.plan import TickerRange
from closingbell.quality import Verdict
from closingbell.store import ledger
from closingbell.store.ledger import ERROR_LENGTH, GONE_AFTER, LOOK_BACK, Settlement, is_all_new, spans
from closingbell.store.writer import sessions_between

#: Around a long weekend: the 15th of January 2024 is no session.
SESSIONS = calendar_for("stocks").sessions(date(2024, 1, 8), date(2024, 1, 25))
DATES: list[date] = SESSIONS.tolist()
TICKERS = ("AAPL", "BRK.B", "PEBpE")
STRENGTH = [{"pending"}, {"failed", "unpublished"}, {"unentitled"}, {"empty", "quarantined"}]
Cell = tuple[str, date]
AT = datetime(2024, 2, 1, 6, tzinfo=UTC)


@dataclass(frozen=True)
class Answer:
    """What a call brings, cell by cell."""

    tickers: tuple[str, ...]
    positions: tuple[int, ...]
    bars: frozenset[tuple[int, int]]
    bad: frozenset[tuple[int, int]]
    reason: str
    error: str | None
    doubtful: bool

    @property
    def outcome(self) -> Outcome:
        sessions = SESSIONS[list(self.positions)]
        call = TickerRange(self.tickers[0], tuple(sessions.tolist()))
        verdict = Verdict(self._block(self.bars), self._block(self.bad), ("ohlc_order",) * len(self.bad), {})
        doubtful = np.full(len(sessions), self.doubtful)
        return Outcome(call, verdict, self.tickers, sessions, self.reason, self.error, 0, doubtful)

    def _block(self, cells: frozenset[tuple[int, int]]) -> Bars:
        rows = np.zeros(len(cells), BAR)
        for row, (ticker, column) in zip(rows, sorted(cells), strict=True):
            row["ticker"], row["session"] = ticker, SESSIONS[self.positions[column]]
        return Bars(self.tickers, rows)

    def cell(self, ticker: int, column: int) -> Cell:
        return self.tickers[ticker], DATES[self.positions[column]]


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    tickers = tuple(draw(st.lists(st.sampled_from(TICKERS), min_size=1, unique=True)))
    positions = tuple(sorted(draw(st.sets(st.integers(0, len(DATES) - 1), min_size=1, max_size=6))))
    if draw(st.booleans()):  # most real calls ask for what lies together
        positions = tuple(range(positions[0], positions[-1] + 1))
    kind = draw(st.sampled_from(["answered", "answered", "doubtful", "failed", "unpublished", "unentitled", "pending"]))
    if kind not in ("answered", "doubtful"):
        error = None if kind == "pending" else draw(st.sampled_from(["HTTP 500", "silent"]))
        return Answer(tickers, positions, frozenset(), frozenset(), kind, error, False)
    cells = st.frozensets(st.tuples(st.integers(0, len(tickers) - 1), st.integers(0, len(positions) - 1)))
    if draw(st.booleans()):  # most real answers have all that was asked for
        every = frozenset((i, j) for i in range(len(tickers)) for j in range(len(positions)))
        return Answer(tickers, positions, every, frozenset(), "empty", None, kind == "doubtful")
    return Answer(tickers, positions, draw(cells), draw(cells), "empty", None, kind == "doubtful")


@dataclass
class Database:
    """Rows as the store would hold them, written by settlements."""

    marks: dict[str, Watermark] = field(default_factory=dict)
    gaps: dict[Cell, Gap] = field(default_factory=dict)
    at: datetime = AT

    def settle(self, answers: list[Answer]) -> list[list[bool]]:
        """One transaction; returns which bars were fresh, for each answer."""
        outcomes = [answer.outcome for answer in answers]
        asked = spans(outcomes)
        first = min(span.first for span in asked.values()) - LOOK_BACK
        last = max(span.last for span in asked.values())
        marks = {ticker: mark for ticker, mark in self.marks.items() if ticker in asked}
        gaps = {key: gap for key, gap in self.gaps.items() if key[0] in asked and first <= key[1] <= last}
        settlement = Settlement(marks, {} if is_all_new(outcomes, marks) else gaps, sessions_between, self.at)
        fresh = [settlement.settle(outcome).tolist() for outcome in outcomes]
        self.marks |= settlement.marks
        for key in settlement.closed_gaps:
            del self.gaps[key]
        assert all(self.gaps.get((gap.ticker, gap.session)) != gap for gap in settlement.new_gaps), "written in vain"
        self.gaps |= {(gap.ticker, gap.session): gap for gap in settlement.new_gaps}
        return fresh


class Model:
    """What is known of each cell, by the law alone."""

    def __init__(self) -> None:
        self.stored: set[Cell] = set()
        self.gaps: dict[Cell, tuple[str, int, str | None]] = {}

    def settle(self, answer: Answer) -> list[bool]:
        fresh = [answer.cell(*cell) not in self.stored for cell in sorted(answer.bars)]
        for cell in answer.bars:
            self.stored.add(answer.cell(*cell))
            self.gaps.pop(answer.cell(*cell), None)
        for i in range(len(answer.tickers)):
            for j in range(len(answer.positions)):
                if answer.cell(i, j) not in self.stored:
                    self._lacks(answer, answer.cell(i, j), bad=(i, j) in answer.bad)
        for ticker in answer.tickers:
            mine = [day for name, day in [*self.stored, *self.gaps] if name == ticker]
            for day in DATES:
                if min(mine) < day < max(mine) and (ticker, day) not in self.stored:
                    self.gaps.setdefault((ticker, day), ("pending", 0, None))
        return fresh

    def _lacks(self, answer: Answer, cell: Cell, *, bad: bool) -> None:
        reason, before = answer.reason, None
        if bad:
            reason = "quarantined"
        elif answer.doubtful:
            position = DATES.index(cell[1])
            earlier = [self.gaps.get((cell[0], day)) for day in DATES[max(0, position - GONE_AFTER) : position]]
            gone = len(earlier) == GONE_AFTER and all(gap and gap[0] == "empty" for gap in earlier)
            before = earlier[-1] if gone else None
            reason = "empty" if gone else "unpublished"
        old = self.gaps.get(cell)
        if old is None and before and reason == "empty":
            self.gaps[cell] = before
        elif old is None:
            self.gaps[cell] = (reason, int(reason != "pending"), answer.error)
        elif strength(reason) >= strength(old[0]):
            if reason in ("failed", "unpublished"):
                self.gaps[cell] = (reason, old[1] + 1, answer.error)
            elif reason != old[0]:
                self.gaps[cell] = (reason, 1, answer.error)


def strength(reason: str) -> int:
    return next(i for i, reasons in enumerate(STRENGTH) if reason in reasons)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(answers(), min_size=1, max_size=3), max_size=8))
def test_the_law_holds_after_every_transaction(transactions: list[list[Answer]]) -> None:
    database, model = Database(), Model()
    for transaction in transactions:
        stored = set(model.stored)
        answered = {cell: gap for cell, gap in model.gaps.items() if gap[0] in ("empty", "quarantined")}
        fresh = database.settle(transaction)
        assert fresh == [model.settle(answer) for answer in transaction]

        gaps = {key: (gap.reason, gap.attempts, gap.last_error) for key, gap in database.gaps.items()}
        assert gaps == model.gaps
        inside = {(t, day) for t, mark in database.marks.items() for day in DATES if mark.first <= day <= mark.last}
        assert inside == model.stored | set(gaps), "every session inside a watermark has a bar or a gap, none outside"
        assert not model.stored & set(gaps), "and never both"
        assert stored <= model.stored
        if all(answer.error or answer.reason == "pending" for answer in transaction):
            assert {cell: gaps[cell] for cell in answered} == answered, "a failed call unsays no answer"


def test_an_outcome_looks_at_its_own_cells_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is called off notes a thousand market days at once: each in the time of its own cells."""
    looked_at: list[int] = []

    def inside(
        sessions: NDArray[np.datetime64], rows: list[int], days: NDArray[np.datetime64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        looked_at.append(len(rows))
        return ledger_inside(sessions, rows, days)

    ledger_inside = ledger._inside
    monkeypatch.setattr(ledger, "_inside", inside)
    days = [Answer(TICKERS, (i,), frozenset(), frozenset(), "pending", None, False) for i in range(len(DATES))]
    database = Database()
    database.settle(days)
    database.settle(days)
    assert max(looked_at) == len(TICKERS)
    assert len(database.gaps) == len(TICKERS) * len(DATES)


def settled(*answers: Answer, database: Database | None = None) -> Database:
    database = database or Database()
    for answer in answers:
        database.settle([answer])
    return database


def whole(*positions: int, lacking: int = 0) -> Answer:
    bars = frozenset((0, column) for column in range(len(positions) - lacking))
    return Answer(("AAPL",), positions, bars, frozenset(), "empty", None, False)


def failed(*positions: int, reason: str = "failed", error: str | None = "HTTP 500") -> Answer:
    return Answer(("AAPL",), positions, frozenset(), frozenset(), reason, error, False)


@pytest.mark.parametrize(
    ("known", "answer", "wanted"),
    [
        ((), whole(3, 4), True),
        ((0, 1), whole(3, 4), True),
        ((3, 4), whole(0, 1), True),
        ((0, 3), whole(3, 4), False),
        ((0, 7), whole(3, 4), False),
        ((0, 1), whole(3, 4, lacking=1), False),
        ((0, 1), failed(3, 4), False),
    ],
)
def test_no_gap_has_a_say_in_bars_of_cells_that_are_all_new(
    known: tuple[int, ...], answer: Answer, wanted: bool
) -> None:
    marks = {"AAPL": Watermark(DATES[known[0]], DATES[known[1]])} if known else {}
    assert is_all_new([answer.outcome], marks) == wanted


def test_the_same_answer_again_is_not_written_again() -> None:
    answer = Answer(("AAPL",), (0, 1, 2), frozenset({(0, 0)}), frozenset({(0, 1)}), "empty", None, False)
    database = settled(answer)
    asked = answer.outcome
    settlement = Settlement(dict(database.marks), dict(database.gaps), sessions_between, AT)
    settlement.settle(asked)
    assert (settlement.marks, settlement.new_gaps, settlement.closed_gaps) == (database.marks, [], [])


def test_each_failed_try_is_an_attempt() -> None:
    gaps = settled(failed(3), failed(3), failed(3, reason="unpublished", error="not yet"), failed(3)).gaps
    assert gaps == {("AAPL", DATES[3]): Gap("AAPL", DATES[3], "failed", 4, "HTTP 500", AT)}


def test_a_call_that_was_not_made_is_no_attempt() -> None:
    pending = failed(3, reason="pending", error=None)
    assert settled(pending, pending).gaps["AAPL", DATES[3]].attempts == 0
    assert settled(failed(3), pending).gaps["AAPL", DATES[3]] == Gap("AAPL", DATES[3], "failed", 1, "HTTP 500", AT)


def test_an_answer_that_stands_is_counted_again_only_in_its_time() -> None:
    empty = Answer(("AAPL",), (3,), frozenset(), frozenset(), "empty", None, False)
    database = settled(empty)
    for days, attempts, asked in ((29, 1, 0), (30, 2, 30), (119, 2, 30), (120, 3, 120), (485, 4, 485), (850, 5, 850)):
        database.at = AT + timedelta(days=days)
        gap = settled(empty, database=database).gaps["AAPL", DATES[3]]
        assert (gap.attempts, gap.asked_at) == (attempts, AT + timedelta(days=asked))


def test_an_answer_after_failures_is_the_first_of_its_kind() -> None:
    """Else a bad night would put the next question off for a year."""
    failures = [failed(3)] * 4
    empty = Answer(("AAPL",), (3,), frozenset(), frozenset(), "empty", None, False)
    bad = Answer(("AAPL",), (3,), frozenset(), frozenset({(0, 0)}), "empty", None, False)
    assert settled(*failures, empty).gaps["AAPL", DATES[3]].attempts == 1
    assert settled(*failures, empty, bad).gaps["AAPL", DATES[3]] == Gap("AAPL", DATES[3], "quarantined", 1, None, AT)


def test_an_answer_in_other_words_is_the_same() -> None:
    unknown = failed(3, reason="empty", error="Ticker not found.")
    for again in (Answer(("AAPL",), (3,), frozenset(), frozenset(), "empty", None, False), unknown):
        gap = settled(unknown, again).gaps["AAPL", DATES[3]]
        assert (gap.attempts, gap.last_error) == (1, "Ticker not found.")


@pytest.mark.parametrize(("refusal", "asked_again"), [("unentitled", False), ("failed", True), ("unpublished", True)])
def test_a_refusal_puts_the_next_question_off_but_unsays_no_answer(refusal: str, asked_again: bool) -> None:
    """A plan's history moves on; what was found empty at its far end would else cost a call every night, for ever."""
    database = settled(Answer(("AAPL",), (3,), frozenset(), frozenset(), "empty", None, False))
    database.at = AT + timedelta(days=31)
    gap = settled(failed(3, reason=refusal, error="no"), database=database).gaps["AAPL", DATES[3]]
    assert (gap.reason, gap.last_error) == ("empty", None)
    assert is_due(gap, database.at + timedelta(days=1)) == asked_again


def test_a_market_day_that_lacks_it_again_is_such_an_answer_too() -> None:
    database = settled(Answer(("AAPL",), (3,), frozenset(), frozenset(), "empty", None, False))
    database.at = AT + timedelta(days=31)
    lacking = Answer(("AAPL",), (3,), frozenset(), frozenset(), "empty", None, True)
    gap = settled(lacking, database=database).gaps["AAPL", DATES[3]]
    assert (gap.reason, gap.attempts, gap.asked_at) == ("empty", 2, database.at)


def test_a_run_of_empty_sessions_is_asked_for_again_as_one() -> None:
    """Else a share that is gone would cost a call a night, each for one more session."""
    gone = tuple(range(GONE_AFTER))
    database = settled(Answer(("AAPL",), gone, frozenset(), frozenset(), "empty", None, False))
    database.at = AT + timedelta(days=3)
    lacking = Answer(("AAPL",), (GONE_AFTER,), frozenset(), frozenset(), "empty", None, True)
    gaps = settled(lacking, database=database).gaps
    assert gaps["AAPL", DATES[GONE_AFTER]].asked_at == gaps["AAPL", DATES[GONE_AFTER - 1]].asked_at == AT


def test_a_day_without_a_trade_does_not_make_a_share_gone() -> None:
    """An OTC stock is on no market day: that it is not there on the next one either says nothing."""
    days = tuple(range(1, GONE_AFTER))
    database = settled(Answer(("AAPL",), days, frozenset(), frozenset(), "empty", None, False))
    lacking = Answer(("AAPL",), (GONE_AFTER,), frozenset(), frozenset(), "empty", None, True)
    assert settled(lacking, database=database).gaps["AAPL", DATES[GONE_AFTER]].reason == "unpublished"


@pytest.mark.parametrize(("text", "kept"), [("", None), (None, None), ("a\0b", "ab"), ("\ud800", "?")])
def test_an_error_is_kept_as_a_database_can_hold_it(text: str | None, kept: str | None) -> None:
    assert settled(failed(3, error=text)).gaps["AAPL", DATES[3]].last_error == kept


def test_a_long_error_is_cut() -> None:
    assert settled(failed(3, error="x" * 9_999)).gaps["AAPL", DATES[3]].last_error == "x" * ERROR_LENGTH


def test_a_hole_ends_at_the_watermark_and_skips_what_is_no_session() -> None:
    database = settled(failed(2), failed(8))
    assert [day for _, day in sorted(database.gaps)] == DATES[2:9]
    assert date(2024, 1, 15) not in {day for _, day in database.gaps}
    assert database.marks == {"AAPL": Watermark(DATES[2], DATES[8])}


def test_spans_of_several_outcomes() -> None:
    both = [failed(4, 6).outcome, failed(1).outcome]
    assert spans(both) == {"AAPL": Watermark(DATES[1], DATES[6])}
    assert spans([]) == {}


def test_a_bar_counts_as_fresh_only_where_none_was() -> None:
    whole = Answer(("AAPL",), (0, 1, 2), frozenset({(0, 0), (0, 2)}), frozenset(), "empty", None, False)
    every: NDArray[np.bool_]
    settlement = Settlement({}, {}, sessions_between, AT)
    every = settlement.settle(whole.outcome)
    assert every.tolist() == [True, True]
    more = Answer(("AAPL",), (0, 1, 2), frozenset({(0, 0), (0, 1), (0, 2)}), frozenset(), "empty", None, False)
    assert settlement.settle(more.outcome).tolist() == [False, True, False]
