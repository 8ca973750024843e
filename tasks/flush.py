"""Outcomes on their way into the database: one by one while it is idle, many in one transaction while it is busy.

A writer that is free takes all that there is. Behind a slow API the writers are always free, and each call is
committed by itself, at once. Behind a fast one answers gather while a writer is busy, and what has gathered is its next
transaction: the slower the database is beside the API, the more of them share its costs. Another writer steps in where
that would be no small one, or where the first takes long. The batches do not wait for each other, only for room.
What waits, and whole days in the order of the plan, is :mod:`tasks.backlog`'s.

Where answers are cut into batches of bars, each of those is a transaction of its own, in the order of time, and told.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from closingbell.errors import ClosingbellError, RunEndingError
from closingbell.outcome import FlushResult, Outcome
from closingbell.plan import FlatFile
from closingbell.quality import NOTHING, REFUSED
from closingbell.report import Failure, Tally
from closingbell.store.faults import AwayError, LockedError, RaceError
from tasks.backlog import Backlog, Saving

log = logging.getLogger("closingbell.flush")

#: What a person who waits wants to see: each batch, as it is committed.
loading = logging.getLogger("closingbell.loading")

#: Transactions at once: while one waits for the disk or for its turn at Python, the other one's rows go in.
WRITERS: Final = 2

#: Rows that may wait for a writer, and so the most in one transaction, but for a single answer that is larger. It is
#: twice as many with those that are being written, and an answer more of each thread.
ROWS: Final = 50_000

#: Seconds that a writer with nothing to do leaves answers to one that is at work, or later days to earlier ones.
HOLD: Final = 0.5

#: Seconds that closing waits for the transactions that are under way.
PATIENCE: Final = 15.0

#: What keeps every answer from being written, whatever is in it.
_OF_ALL: Final = (AwayError, LockedError, RaceError, RunEndingError)

#: Writes outcomes, and closes their claims, in one transaction.
Write = Callable[[Sequence[Outcome], Sequence[int | None]], FlushResult]

#: Cuts an outcome into those that are committed one by one; the claim on it is closed with the last.
Cut = Callable[[Outcome], list[Outcome]]


class Flusher:
    """Takes outcomes from the threads of a run and writes them in threads of its own, in the order they came.

    Args:
        write: see :data:`Write`; called from several threads.
        writers: how many.
        rows: see :data:`ROWS`.
        hold: see :data:`HOLD`.
        cut: see :data:`Cut`; None: each outcome is committed whole, and often several at once.

    Attributes:
        tally: what the database says of all that was written; whole once :meth:`close` is through.
    """

    def __init__(
        self, write: Write, *, writers: int = WRITERS, rows: int = ROWS, hold: float = HOLD, cut: Cut | None = None
    ) -> None:
        self._write = write
        self._cut = cut
        self._most = rows
        self._writers = writers
        self._threads: list[threading.Thread] = []
        self._backlog = Backlog(rows, hold, one_by_one=cut is not None)
        self._writing = 0  # rows, of each transaction a large one's at most
        self._idle = 0
        self._written = False
        self._over: ClosingbellError | None = None
        self._closing = False
        lock = threading.RLock()
        self._change = threading.Condition(lock)
        self._arrival = threading.Condition(lock)  # what only a writer waits for
        self.tally = Tally()

    def put(self, saving: Saving) -> None:
        """Hand over an outcome; returns when there is room for more.

        Raises:
            ClosingbellError: the database is beyond waiting for, or the run is over.
        """
        with self._change:
            saving.failure = None
            if self._cut and not saving.of:
                saving.parts = [saving.outcome] if saving.outcome.failed else self._cut(saving.outcome)
                saving.of = len(saving.parts)
            if self._over or self._closing:
                saving.failure = copy.copy(self._over or RunEndingError("the run is ending"))
                raise saving.failure
            saving.since, saving.taken = time.monotonic(), False
            waited = self._to_wait()
            self._backlog.add(saving)
            # Two that begin the same new tickers at once would get into each other's way: the first goes alone.
            if not self._idle and len(self._threads) < (self._writers if self._written else 1):
                self._start()
            # Who is woken in vain takes the interpreter from those that are at work.
            if waited is None or self._to_wait() == 0:
                self._arrival.notify()
            while not (self._over or self._closing or saving.taken or self._has_room(saving)):
                self._change.wait()
            if self._over and saving.failure:
                raise saving.failure

    @contextmanager
    def expecting(self, places: Sequence[int]) -> Iterator[None]:
        """For the time of the block, let later days wait a moment for those at these places: they are under way."""
        with self._change:
            self._backlog.expect(places)
        try:
            yield
        finally:
            self.forget(places)

    def forget(self, places: Sequence[int]) -> None:
        """Let no day wait for those at these places any longer."""
        with self._change:
            self._backlog.forget(places)
            if self._to_wait() == 0:
                self._arrival.notify()

    def wait(self, saving: Saving) -> None:
        """Return when an outcome that was handed over is written, or will not be: see its ``failure``."""
        with self._change:
            while not saving.saved and saving.failure is None:
                self._change.wait()

    def take(self) -> Tally:
        """What was written since this was last asked, for whoever adds it up elsewhere."""
        with self._change:
            taken, self.tally = self.tally, Tally()
        return taken

    def close(self) -> None:
        """Take nothing more, and wait a while for what is under way."""
        with self._change:
            self._closing = True
            self._change.notify_all()
            self._arrival.notify_all()
        until = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        # What a run is, to Prefect and its log, is a context variable, which a new thread does not inherit by itself.
        keep, name = contextvars.copy_context().run, f"writer {len(self._threads) + 1}"
        thread = threading.Thread(target=keep, args=(self._work,), name=name, daemon=True)
        thread.start()  # it waits for the lock, which whoever starts it holds
        self._threads.append(thread)

    def _work(self) -> None:
        are_days = False
        while these := self._taken(after_days=are_days):
            are_days = these[0].place is not None
            if self._cut:
                self._load(these[0])
            else:
                self._save(these)
            # While this thread waits for more, what it wrote is nobody's any more.
            del these

    def _load(self, saving: Saving) -> None:
        """Commit an outcome part by part. What fails is where a later try goes on; what is committed is not redone."""
        outcome, total = saving.outcome, len(saving.outcome.verdict.accepted)
        if saving.of == len(saving.parts) > 1:
            loading.info("%s: %s", outcome.call, _received(outcome))
        while saving.parts:
            part = saving.parts[0]
            claim = saving.claim.claim_id if len(saving.parts) == 1 else None
            result, failure, spent = self._tried([part], [claim])
            with self._noting([saving]):
                self.tally.spend("database", spent)
                if result is None:
                    self._fail([saving], failure)
                else:
                    del saving.parts[0]
                    self._add([part], result)
                    if not saving.parts:
                        self._done(saving, result)
            if saving.failure:
                return
            if saving.of > 1:
                left = sum(len(each.verdict.accepted) for each in saving.parts)
                loading.info(
                    "Batch %d/%d · %s/%s bars · commits %d · retries %d",
                    saving.of - len(saving.parts),
                    saving.of,
                    f"{total - left:,}",
                    f"{total:,}",
                    self.tally.commits,
                    self.tally.retries,
                )

    def _save(self, these: Sequence[Saving]) -> None:
        outcomes, claims = [each.outcome for each in these], [each.claim.claim_id for each in these]
        result, failure, spent = self._tried(outcomes, claims)
        if failure is not None and len(these) > 1 and not isinstance(failure, _OF_ALL):
            log.warning("%d answers could not be written at once (%s): one by one", len(these), failure)
            for each in these:
                self._save([each])
            return
        with self._noting(these):
            self.tally.spend("database", spent)
            if result is None:
                self._fail(these, failure)
            else:
                self._add(outcomes, result)
                for each in these:
                    self._done(each, result)

    def _tried(
        self, outcomes: Sequence[Outcome], claims: Sequence[int | None]
    ) -> tuple[FlushResult | None, BaseException | None, float]:
        """What a transaction wrote, or why it could not; and its seconds."""
        begun = time.perf_counter()
        result: FlushResult | None = None
        failure: BaseException | None = None
        try:
            result = self._write(outcomes, claims)
        except BaseException as error:  # noqa: BLE001  (whoever waits has to learn of it, whatever it is)
            failure = error
        return result, failure, time.perf_counter() - begun

    @contextmanager
    def _noting(self, these: Sequence[Saving]) -> Iterator[None]:
        """Note in the block what became of answers; whoever waits for them learns of it, and of a bug in the noting."""
        with self._change:
            try:
                yield
            except BaseException as bug:  # noqa: BLE001  (the same)
                for each in these:
                    each.failure = each.failure or (None if each.saved else bug)
            self._writing -= sum(min(each.rows, self._most) for each in these if each.saved or each.failure)
            self._change.notify_all()

    def _taken(self, *, after_days: bool) -> list[Saving]:
        """A transaction's worth of what waits, after one of days, or of other answers; empty when it is over."""
        with self._change:
            if after_days:
                self._backlog.release_days()
            self._idle += 1
            while not self._closing and (seconds := self._to_wait()) != 0:
                self._arrival.wait(seconds)
            these = self._backlog.take(time.monotonic(), alone=self._is_alone())
            self._idle -= 1
            self._writing += min(sum(each.rows for each in these), self._most)
            self._change.notify_all()
            if self._backlog:
                self._arrival.notify()
            return these

    def _has_room(self, saving: Saving) -> bool:
        """Whether more may come after it: what a run holds in memory is bounded, however slow the database is."""
        queued = self._backlog.rows
        return queued == saving.rows or (queued <= self._most and queued + self._writing <= 2 * self._most)

    def _to_wait(self) -> float | None:
        """How many seconds a writer leaves what waits where it is; None: there is nothing for it yet."""
        return self._backlog.wait(time.monotonic(), alone=self._is_alone())

    def _is_alone(self) -> bool:
        """Whether no writer is at work."""
        return len(self._threads) == self._idle

    def _add(self, outcomes: Sequence[Outcome], result: FlushResult) -> None:
        """Count what a transaction wrote."""
        self._written = True
        skipped = Counter(rule for outcome in outcomes for rule in outcome.verdict.rules)
        if refused := result.quarantined - skipped.total():
            skipped[REFUSED] += refused
        self.tally.add(
            Tally(
                rows=sum(outcome.rows for outcome in outcomes),
                valid=result.stored,
                skipped=dict(skipped),
                commits=result.commits,
                retries=result.retries,
                inserted=result.inserted,
                rewritten=result.rewritten,
                gaps=result.gaps,
                quarantined=result.quarantined,
                examples=result.examples,
                absent=[f"{ticker} {session}" for ticker, session in result.absent],
            )
        )
        for outcome in outcomes:
            flat = len(outcome.verdict.accepted) if isinstance(outcome.call, FlatFile) else 0
            self.tally.add(Tally(warned=dict(outcome.verdict.warned), flat=flat))
            self.tally.failures += _refused(outcome, result)

    @staticmethod
    def _done(saving: Saving, result: FlushResult) -> None:
        saving.holes = result.holes.get(str(saving.outcome.call), 0)
        # Until its batch takes note, which may be after a long wait, it is in nobody's count of the rows in hand.
        saving.outcome, saving.parts = replace(saving.outcome, verdict=NOTHING), []
        saving.saved = True

    def _fail(self, these: Sequence[Saving], failure: BaseException | None) -> None:
        failed = list(these)
        if isinstance(failure, AwayError | LockedError | RunEndingError):
            # It was waited for as long as the settings say: nobody waits once more.
            self._over = failure
            failed += self._backlog.clear()
        for each in failed:
            each.failure = copy.copy(failure) if isinstance(failure, ClosingbellError) else failure


def _received(outcome: Outcome) -> str:
    """What a call brought, in words."""
    verdict = outcome.verdict
    skipped = ", ".join(f"{count:,} {rule}" for rule, count in sorted(Counter(verdict.rules).items()))
    valid = f"{outcome.rows:,} bars received, {len(verdict.accepted):,} valid"
    return f"{valid}, {len(verdict.quarantined):,} skipped" + (f" ({skipped})" if skipped else "")


def _refused(outcome: Outcome, result: FlushResult) -> list[Failure]:
    """The tickers of an outcome whose answer the database does not take."""
    cells = len(outcome.call.cells) // max(len(outcome.tickers), 1) if result.refused else 0
    what = "the database does not take a ticker's answer"
    return [
        Failure(str(outcome.call), what, "failed", cells, (ticker,), said)
        for ticker, said in result.refused.items()
        if ticker in outcome.tickers
    ]
