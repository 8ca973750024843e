"""The same night without Prefect: what it costs is the difference.

All that the flows ask of Prefect is replaced by the least that does the same: the task runner by a pool of as many
threads, the limit by a gate without a quota, logs and artifacts by nothing.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from prefect.logging import disable_run_logger

from closingbell.quota import Quotas
from closingbell.report import Tally
from closingbell.settings import read
from tasks import batch, facts, splits
from tasks.batch import Work
from tasks.resources import Resources
from tasks.runners import Fetching, Lanes


class OpenGates:
    """Gates that let everything through, in the place of :class:`tasks.gates.Gates`."""

    def __init__(self, quotas: Quotas, **_: object) -> None:
        self.in_force = quotas

    def __enter__(self) -> OpenGates:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was taken."""

    def of(self, asset_class: str) -> OpenGates:
        """One gate for all."""
        return self

    @contextmanager
    def call(self) -> Iterator[None]:
        """Pass."""
        yield

    def pause(self, seconds: float | None) -> None:
        """Go on."""

    def opened(self) -> Sequence[Any]:
        """None that has something to say."""
        return ()

    def stop(self) -> None:
        """Nobody waits."""

    def expect(self, calls: object) -> None:
        """It is ready."""

    def leave(self) -> None:
        """Nothing was taken."""


@contextmanager
def without_prefect() -> Iterator[None]:
    """Take Prefect out of what runs in the block: the function of a flow, not the flow."""
    ingest_batch, look_up = batch.ingest_batch.fn, facts.look_up.fn
    with ExitStack() as stack, ThreadPoolExecutor(read().fetch_threads) as pool:
        stack.enter_context(disable_run_logger())
        for target, replacement in {
            "tasks.vendors.Gates": OpenGates,
            "tasks.night.put_artifact": _nothing,
            "tasks.pictures.put_artifact": _nothing,
            "flows.night.fetching": _fetching(_Mapped(pool, ingest_batch)),
            "flows.night.look_at_splits": _look_at_splits,
            "flows.night.flow_run": SimpleNamespace(id=str(uuid4())),
            "tasks.facts.look_up": SimpleNamespace(with_options=lambda **_: _Mapped(pool, look_up)),
            "tasks.facts.unmapped": lambda value: value,
        }.items():
            stack.enter_context(patch(target, replacement))
        yield


class _Mapped:
    """A function over many arguments at once, as a task's ``map`` does it."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[..., Any]) -> None:
        self._pool = pool
        self._work = work

    def map(self, batches: Sequence[Any], work: Any) -> list[_Result]:
        """Begin all."""
        keep = contextvars.copy_context
        return [_Result(self._pool.submit(keep().run, self._work, one, work)) for one in batches]


def _fetching(mapped: _Mapped) -> Callable[[Work, Lanes, Resources], AbstractContextManager[Fetching]]:
    """What has the batches of all asset classes fetched, without a task runner."""

    @contextmanager
    def fetching(work: Work, lanes: Lanes, resources: Resources) -> Iterator[Fetching]:
        batches = [batch for of_class in lanes.values() for batch in of_class]
        with resources.flushing(work.run_id, work.source, work.now) as flusher:

            def hand_out() -> Any:
                return mapped.map(batches, work)

            yield Fetching(hand_out, flusher.take)

    return fetching


class _Result:
    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def result(self, timeout: float, *, raise_on_failure: bool) -> Any:
        """Wait for it so long."""
        return self._future.result(timeout)


def _look_at_splits(work: Any, span: Any, resources: Any) -> Any:
    found: Any = splits.fetch_splits.fn(work, *span) if span else 0
    return Tally(splits=found)


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""
