"""Outcomes on their way into the database: one by one while it is idle, many in one transaction while it is busy.

Nothing is held back and nothing is timed: a writer that is free takes all that there is. Behind a slow API the writers
are always free, and each call is committed by itself, at once. Behind a fast one answers gather while the writers are
busy, and what has gathered is their next transaction: the slower the database is beside the API, the more of them
share its costs. The batches do not wait for each other, only for room.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from closingbell.errors import ClosingbellError, RunEndingError
from closingbell.outcome import FlushResult, Outcome
from closingbell.report import Failure, Tally
from closingbell.store.claims import Claim
from closingbell.store.faults import AwayError, LockedError, RaceError

log = logging.getLogger("closingbell.flush")

#: Transactions at once: while one waits for the disk or for its turn at Python, the other one's rows go in.
WRITERS: Final = 2

#: Rows that may wait for a writer, and so the most in one transaction, but for a single answer that is larger.
ROWS: Final = 50_000

#: Seconds that closing waits for the transactions that are under way.
PATIENCE: Final = 15.0

#: What keeps every answer from being written, whatever is in it.
_OF_ALL: Final = (AwayError, LockedError, RaceError, RunEndingError)

#: Writes outcomes, and closes their claims, in one transaction.
Write = Callable[[Sequence[Outcome], Sequence[int | None]], FlushResult]


class Saving:
    """What came of a call, on its way into the database.

    Args:
        claim: on its cells.
        outcome: what is to be written.
        error: why the call failed, if it did.

    Attributes:
        saved: whether it is committed.
        holes: how many cells of a call that failed have no bar now.
        failure: why it could not be written.
    """

    def __init__(self, claim: Claim, outcome: Outcome, error: ClosingbellError | None) -> None:
        self.claim = claim
        self.outcome = outcome
        self.error = error
        self.rows = max(1, len(outcome.verdict.accepted) + len(outcome.verdict.quarantined))
        self.saved = False
        self.holes = 0
        self.failure: BaseException | None = None


class Flusher:
    """Takes outcomes from the threads of a run and writes them in threads of its own, in the order they came.

    Args:
        write: see :data:`Write`; called from several threads.
        writers: how many.
        rows: see :data:`ROWS`.

    Attributes:
        tally: what the database says of all that was written; whole once :meth:`close` is through.
    """

    def __init__(self, write: Write, *, writers: int = WRITERS, rows: int = ROWS) -> None:
        self._write = write
        self._most = rows
        self._writers = writers
        self._threads: list[threading.Thread] = []
        self._queue: deque[Saving] = deque()
        self._queued = 0  # rows
        self._idle = 0
        self._written = False
        self._over: ClosingbellError | None = None
        self._closing = False
        self._change = threading.Condition()
        self.tally = Tally()

    def put(self, saving: Saving) -> None:
        """Hand over an outcome; waits for room where so many rows wait already.

        Raises:
            ClosingbellError: the database is beyond waiting for, or the run is over.
        """
        with self._change:
            saving.failure = None
            while self._queued and self._queued + saving.rows > self._most and not (self._over or self._closing):
                try:
                    self._change.wait()
                except BaseException as error:  # a signal: nobody will write it
                    saving.failure = error
                    raise
            if self._over or self._closing:
                saving.failure = copy.copy(self._over or RunEndingError("the run is ending"))
                raise saving.failure
            self._queue.append(saving)
            self._queued += saving.rows
            # Two that begin the same new tickers at once would get into each other's way: the first goes alone.
            if not self._idle and len(self._threads) < (self._writers if self._written else 1):
                self._start()
            self._change.notify_all()

    def wait(self, saving: Saving) -> None:
        """Return when an outcome that was handed over is written, or will not be: see its ``failure``."""
        with self._change:
            while not saving.saved and saving.failure is None:
                self._change.wait()

    def close(self) -> None:
        """Take nothing more, and wait a while for what is under way."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        until = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        # What a run is, to Prefect and its log, is a context variable, which a new thread does not inherit by itself.
        keep, name = contextvars.copy_context().run, f"writer {len(self._threads) + 1}"
        thread = threading.Thread(target=keep, args=(self._work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while these := self._taken():
            self._save(these)
            # While this thread waits for more, what it wrote is nobody's any more.
            del these

    def _save(self, these: Sequence[Saving]) -> None:
        begun = time.perf_counter()
        result: FlushResult | None = None
        failure: BaseException | None = None
        try:
            result = self._write([each.outcome for each in these], [each.claim.claim_id for each in these])
        except BaseException as error:  # noqa: BLE001  (whoever waits has to learn of it, whatever it is)
            failure = error
        spent = time.perf_counter() - begun
        if failure is not None and len(these) > 1 and not isinstance(failure, _OF_ALL):
            log.warning("%d answers could not be written at once (%s): one by one", len(these), failure)
            for each in these:
                self._save([each])
            return
        with self._change:
            self.tally.spend("database", spent)
            try:
                if result is not None:
                    self._written = True
                    self._note(these, result)
                else:
                    self._fail(these, failure)
            except BaseException as bug:  # noqa: BLE001  (the same)
                for each in these:
                    each.failure = each.failure or (None if each.saved else bug)
            self._change.notify_all()

    def _taken(self) -> list[Saving]:
        """All that waits, up to a transaction's worth; empty when it is over."""
        with self._change:
            self._idle += 1
            while not self._queue and not self._closing:
                self._change.wait()
            self._idle -= 1
            these: list[Saving] = []
            rows = 0
            while self._queue and (not these or rows + self._queue[0].rows <= self._most):
                these.append(self._queue.popleft())
                rows += these[-1].rows
            self._queued -= rows
            self._change.notify_all()
            return these

    def _note(self, these: Sequence[Saving], result: FlushResult) -> None:
        self.tally.add(
            Tally(
                rows=sum(each.outcome.rows for each in these),
                inserted=result.inserted,
                rewritten=result.rewritten,
                gaps=result.gaps,
                quarantined=result.quarantined,
                examples=result.examples,
                absent=[f"{ticker} {session}" for ticker, session in result.absent],
            )
        )
        for each in these:
            outcome = each.outcome
            self.tally.add(Tally(warned=dict(outcome.verdict.warned)))
            self.tally.failures += _refused(outcome, result)
            each.holes = result.holes.get(str(outcome.call), 0)
            each.saved = True

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


def _refused(outcome: Outcome, result: FlushResult) -> list[Failure]:
    """The tickers of an outcome whose answer the database does not take."""
    cells = len(outcome.call.cells) // max(len(outcome.tickers), 1) if result.refused else 0
    what = "the database does not take a ticker's answer"
    return [
        Failure(str(outcome.call), what, "failed", cells, (ticker,), said)
        for ticker, said in result.refused.items()
        if ticker in outcome.tickers
    ]
