"""The steps of a run that derives events: see what is to do, do it ticker by ticker, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from closingbell import report
from closingbell.errors import ClosingbellError, ConfigurationError, RunEndingError
from closingbell.events import detector
from closingbell.events.engine import Derivation
from closingbell.events.tally import Tally
from closingbell.report import Failure
from closingbell.request import Request
from closingbell.store.events import Events
from tasks import night as steps
from tasks.batch import retries, stopping, told, worth_retrying
from tasks.resources import Resources, current

#: So many windows a report lists.
_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked to derive.

    Attributes:
        detector: its name.
        source: of the stored bars.
        timeframe: that the detector looks at.
        from_timeframe: of the stored bars.
        start: first session; None: the first one stored.
        end: last session; None: the last one stored.
        purge: delete what is derived of it, and derive it again.
    """

    detector: str
    source: str
    timeframe: str
    from_timeframe: str
    start: date | None
    end: date | None
    purge: bool

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON, for the run's row."""
        return {name: value.isoformat() if isinstance(value, date) else value for name, value in asdict(self).items()}

    def command(self, tickers: Sequence[str]) -> str:
        """What derives the same of some tickers, as far as it is not derived."""
        whose = f"--tickers {','.join(tickers)} --source {self.source} --detector {self.detector}"
        return f"closingbell derive-events {whose} --timeframe {self.timeframe} --from-timeframe {self.from_timeframe}"

    def of(self, ticker: str, resources: Resources) -> Derivation:
        """The work on one ticker.

        Raises:
            ConfigurationError: such bars cannot be made of those, or the ticker has no calendar.
        """
        store, settings = resources.store, resources.settings
        events = Events(store.engine, retries=settings.max_retries, lock_timeout=settings.database_lock_timeout)
        return Derivation(
            store.records,
            events,
            detector(self.detector),
            ticker=ticker,
            source=self.source,
            timeframe=self.timeframe,
            from_timeframe=self.from_timeframe,
        )


@dataclass(slots=True)
class Plan:
    """What is to do.

    Attributes:
        sessions: how many of each ticker, those with nothing to do left out.
        first: the first session that is derived then.
        last: the last one.
        failures: tickers of which there is nothing to derive events from.
    """

    sessions: dict[str, int]
    first: date
    last: date
    failures: list[Failure]

    def numbers(self) -> dict[str, int]:
        """The plan as the run's row has it."""
        return {"planned_calls": 0, "cells": sum(self.sessions.values()), "tickers": len(self.sessions)}

    def lines(self, asked: Asked, tickers: int) -> list[str]:
        """The plan in words."""
        resampled = f" made of {asked.from_timeframe}" if asked.from_timeframe != asked.timeframe else ""
        total = sum(self.sessions.values())
        again = ", what is derived is deleted first" if asked.purge else ""
        todo = f"{total:,} sessions of {_tickers(len(self.sessions))} are to do, no call{again}"
        told = [
            f"{asked.detector} on {asked.timeframe} bars{resampled} of {asked.source}: "
            f"{_tickers(tickers)}, {self.first} to {self.last}",
            todo if total else "nothing to do: all is derived, and no bar has changed",
        ]
        if self.failures:
            told.append(f"nothing is stored of {report.named([f.tickers[0] for f in self.failures])}")
        return told


def plan(asked: Asked, tickers: Sequence[str], resources: Resources) -> Plan:
    """See what is to do of each ticker; writes nothing.

    Raises:
        ConfigurationError: nothing is stored of any of them, such bars cannot be made of those, or no date lies between
            the start and the end.
        ClosingbellError: as the store says.
    """
    if asked.start and asked.end and asked.start > asked.end:
        span = f"{asked.start}..{asked.end}"
        raise ConfigurationError("the start is after the end", value=span, fix="Exchange them.")
    found = Plan({}, date.max, date.min, [])
    for ticker in tickers:
        work = asked.of(ticker, resources)
        try:
            _, mark = work.look(asked.start, asked.end, purge=asked.purge)
        except ConfigurationError as error:
            found.failures.append(Failure(f"derive {ticker}", error.what, "failed", 0, (ticker,), str(error)))
            continue
        found.first, found.last = min(found.first, mark.first), max(found.last, mark.last)
        if count := work.count(mark):
            found.sessions[ticker] = count
    if len(found.failures) == len(tickers):
        value = ", ".join([asked.source, asked.from_timeframe, *tickers[:3]])
        fix = "Ingest them first: closingbell status TICKER shows what is stored."
        raise ConfigurationError("no bars are stored to derive events from", value=value, fix=fix)
    return found


@task(name="derive events", task_run_name="derive {ticker}", cache_policy=NO_CACHE, retry_condition_fn=worth_retrying)
@told
def derive(ticker: str, asked: Asked, run_id: UUID) -> Tally:
    """Derive one ticker's events, chunk by chunk; on a retry what is left.

    Raises:
        ConfigurationError: nothing will succeed until a person changes a setting.
        ClosingbellError: as the store says.
    """
    resources, logger, begun = current(), get_run_logger(), time.monotonic()

    def progress(done: int, of: int, tally: Tally) -> None:
        logger.info(
            "%s: %s of %s sessions · %s bars · %s events · commits %s · %.1f s",
            *(ticker, f"{done:,}", f"{of:,}", f"{tally.bars:,}", f"{tally.inserted:,}"),
            *(tally.commits, time.monotonic() - begun),
        )

    def stop() -> None:
        if resources.stopped:
            raise RunEndingError("the run has to stop", value=resources.stopped.what)

    with stopping(resources):
        work = asked.of(ticker, resources)
        return work.derive(run_id, asked.start, asked.end, purge=asked.purge, told=progress, stop=stop)


def derive_all(asked: Asked, plan: Plan, run_id: UUID, resources: Resources) -> tuple[Tally, list[Failure]]:
    """Run :func:`derive` over the tickers that have something to do, one after the other.

    One at a time keeps the memory that of one chunk; what fails costs its ticker only.

    Returns:
        What came of it, and the tickers that failed.

    Raises:
        ClosingbellError: the run had to stop.
    """
    whole, failures = Tally(), list[Failure]()
    deriving: Task[..., Any] = derive.with_options(**retries(resources.settings))
    for ticker in plan.sessions:
        state: Any = deriving(ticker, asked, run_id, return_state=True)
        result = state.result(raise_on_failure=False)
        if isinstance(result, Tally):
            whole.add(result)
        elif resources.stopped:
            raise resources.stopped
        elif isinstance(result, ClosingbellError):
            failures.append(Failure(f"derive {ticker}", result.what, "failed", 0, (ticker,), str(result)))
        else:
            raise result
    return whole, failures


def close(
    resources: Resources,
    run_id: UUID,
    flow: str,
    request: Request,
    work: tuple[Asked, Plan],
    done: tuple[Tally, list[Failure]],
    begun: float,
) -> State[Any]:
    """Build the report, publish it, and say truly how it went."""
    (asked, plan), (events, failed) = work, done
    failures = [*plan.failures, *failed]
    tally = report.Tally(calls_done=len(request.tickers), failures=failures, seconds=events.seconds)
    spent = time.monotonic() - begun
    looked = report.looked(run_id, flow, request, plan.numbers(), tally, actual_calls=0, seconds=spent)
    again = asked.command([failure.tickers[0] for failure in failed]) if failed else None
    more = {"events": _as_json(events), "told": _lines(events), "next_command": again}
    ended = steps.ended(resources, run_id, {**looked, **more})
    if not failures:
        return Completed(message=_lines(events)[0])
    message = f"{len(failures):,} of {len(request.tickers):,} tickers failed ({'; '.join(ended['failed'])})"
    if ended["state"] == "PartiallyCompleted":
        return Completed(name="PartiallyCompleted", message=message)
    return Failed(message=message)


def _as_json(events: Tally) -> dict[str, Any]:
    told = asdict(events)
    del told["seconds"]
    told["windows"] = [[first.isoformat(), last.isoformat()] for first, last in events.windows[:_LISTED]]
    return told


def _lines(events: Tally) -> list[str]:
    counts = f"events  {events.inserted:,} stored, {events.removed:,} removed"
    return [f"{counts}: {events.sessions:,} sessions, {events.bars:,} bars, commits {events.commits:,}"]


def _tickers(count: int) -> str:
    return f"{count:,} ticker{'s' if count != 1 else ''}"
