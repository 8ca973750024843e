"""Outcomes on their way into the database: one by one while it is idle, many in one transaction while it is busy.

A writer that is free takes all that there is. Behind a slow API the writers are always free, and each call is
committed by itself, at once. Behind a fast one answers gather while a writer is busy, and what has gathered is its next
transaction: the slower the database is beside the API, the more of them share its costs. Another writer steps in where
that would be no small one, or where the first takes long. The batches do not wait for each other, only for room.

Where answers are cut into batches of bars, each of those is a transaction of its own, in the order of time, and told.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from closingbell.errors import ClosingbellError, RunEndingError
from closingbell.outcome import FlushResult, Outcome
from closingbell.plan import FlatFile
from closingbell.quality import NOTHING, REFUSED
from closingbell.report import Failure, Tally
from closingbell.store.claims import Claim
from closingbell.store.faults import AwayError, LockedError, RaceError

log = logging.getLogger("closingbell.flush")

#: What a person who waits wants to see: each batch, as it is committed.
loading = logging.getLogger("closingbell.loading")

#: Transactions at once: while one waits for the disk or for its turn at Python, the other one's rows go in.
WRITERS: Final = 2

#: Rows that may wait for a writer, and so the most in one transaction, but for a single answer that is larger. It is
#: twice as many with those that are being written, and an answer more.
ROWS: Final = 50_000

#: A transaction of such a part of these is one for a writer of its own; what is less is left to one that is at work.
OWN: Final = 5

#: Seconds that an answer waits at most for a writer that is at work, while another one has nothing to do.
HOLD: Final = 0.5

#: Seconds that closing waits for the transactions that are under way.
PATIENCE: Final = 15.0

#: What keeps every answer from being written, whatever is in it.
_OF_ALL: Final = (AwayError, LockedError, RaceError, RunEndingError)

#: Writes outcomes, and closes their claims, in one transaction.
Write = Callable[[Sequence[Outcome], Sequence[int | None]], FlushResult]

#: Cuts an outcome into those that are committed one by one; the claim on it is closed with the last.
Cut = Callable[[Outcome], list[Outcome]]


class Saving:
    """What came of a call, on its way into the database.

    Args:
        claim: on its cells.
        outcome: what is to be written.
        error: why the call failed, if it did.

    Attributes:
        parts: what of the outcome is not committed yet, a transaction each.
        of: how many those were; 0: nobody has cut it yet.
        since: when it was handed over, by the monotonic clock.
        saved: whether it is committed.
        holes: how many cells of a call that failed have no bar now.
        failure: why it could not be written.
    """

    def __init__(self, claim: Claim, outcome: Outcome, error: ClosingbellError | None) -> None:
        self.claim = claim
        self.outcome = outcome
        self.error = error
        self.rows = max(1, len(outcome.verdict.accepted) + len(outcome.verdict.quarantined))
        self.parts = [outcome]
        self.of = 0
        self.since = 0.0
        self.saved = False
        self.holes = 0
        self.failure: BaseException | None = None


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
        self._hold = hold
        self._most = rows
        self._writers = writers
        self._threads: list[threading.Thread] = []
        self._queue: deque[Saving] = deque()
        self._queued = 0  # rows
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
        """Hand over an outcome; waits for room where so many rows wait already.

        Raises:
            ClosingbellError: the database is beyond waiting for, or the run is over.
        """
        with self._change:
            saving.failure = None
            if self._cut and not saving.of:
                saving.parts = [saving.outcome] if saving.outcome.failed else self._cut(saving.outcome)
                saving.of = len(saving.parts)
            while not (self._over or self._closing or self._has_room(saving.rows)):
                try:
                    self._change.wait()
                except BaseException as error:  # a signal: nobody will write it
                    saving.failure = error
                    raise
            if self._over or self._closing:
                saving.failure = copy.copy(self._over or RunEndingError("the run is ending"))
                raise saving.failure
            saving.since = time.monotonic()
            self._queue.append(saving)
            self._queued += saving.rows
            # Two that begin the same new tickers at once would get into each other's way: the first goes alone.
            if not self._idle and len(self._threads) < (self._writers if self._written else 1):
                self._start()
            # Who is woken in vain takes the interpreter from those that are at work.
            if len(self._queue) == 1 or self._to_wait() == 0:
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
        while these := self._taken():
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

    def _taken(self) -> list[Saving]:
        """All that waits, up to a transaction's worth, or one that is cut; empty when it is over."""
        with self._change:
            self._idle += 1
            while not self._closing and (seconds := self._to_wait()) != 0:
                self._arrival.wait(seconds)
            self._idle -= 1
            these: list[Saving] = []
            rows = 0
            while self._queue and (not these or self._fits(self._queue[0], these[0], rows)):
                these.append(self._queue.popleft())
                rows += these[-1].rows
            self._queued -= rows
            self._writing += min(rows, self._most)
            self._change.notify_all()
            if self._queue:
                self._arrival.notify()
            return these

    def _has_room(self, rows: int) -> bool:
        """Whether so many more may wait: what a run holds in memory is bounded, however slow the database is."""
        queued, held = self._queued + rows, self._queued + self._writing + rows
        return not self._queued or (queued <= self._most and held <= 2 * self._most)

    def _to_wait(self) -> float | None:
        """How many seconds a writer leaves what waits to another one that is at work; None: there is nothing yet."""
        if not self._queue:
            return None
        if len(self._threads) == self._idle or self._queued >= self._most // OWN:
            return 0.0
        return max(0.0, self._queue[0].since + self._hold - time.monotonic())

    def _fits(self, one: Saving, first: Saving, rows: int) -> bool:
        """Whether it may go into a transaction with so many rows: with others of its timeframe."""
        return (
            not self._cut
            and rows + one.rows <= self._most
            and one.outcome.call.timeframe == first.outcome.call.timeframe
        )

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
            failed += self._queue
            self._queue.clear()
            self._queued = 0
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
