"""Who makes the calls of a run's batches: threads of its own process, or the workers of a Dask cluster.

Everything else of a run is the same with either: what differs is said in ``docs/dask.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import Task, unmapped
from prefect.futures import PrefectFuture

from closingbell.calendar import AssetClass
from closingbell.errors import ConfigurationError
from closingbell.plan import Call
from closingbell.report import Tally
from closingbell.settings import Settings, TaskRunnerName
from tasks.batch import Batch, Work, ingest_batch, retries_in_threads
from tasks.resources import Resources
from tasks.threads import side_by_side

#: The batches of a run, by asset class.
Lanes = Mapping[AssetClass, Sequence[Batch[Call]]]


@dataclass(frozen=True, slots=True)
class Fetching:
    """Those who fetch a run's batches.

    Attributes:
        hand_out: hands the batches to them, once; a future for each, in the order of the lanes and of their batches.
        written: what the database says was written beside what the batches tell; whole when the fetching is over.
    """

    hand_out: Callable[[], list[PrefectFuture[Tally]]]
    written: Callable[[], Tally]


def chosen(
    task_runner: TaskRunnerName | None, dask_address: str | None, dask_workers: int | None
) -> Callable[[Settings], Settings]:
    """Puts what a person chose for one run into the settings; an address or a number of workers is a choice of Dask."""
    wanted: dict[str, Any] = {"dask_address": dask_address, "dask_workers": dask_workers}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if task_runner or wanted:
        wanted["task_runner"] = task_runner or "dask"
    if dask_workers and not dask_address:
        wanted["dask_address"] = ""  # so many of its own, whatever cluster is set
    return lambda settings: settings.model_copy(update=wanted)


def fetching(work: Work, lanes: Lanes, resources: Resources) -> AbstractContextManager[Fetching]:
    """Those who fetch the batches, by the settings, for the time of the block.

    Raises:
        ConfigurationError: there is no such cluster here, or its workers are not fit for the run.
    """
    if resources.settings.task_runner == "threads" or not lanes:
        return _in_threads(work, lanes, resources)
    try:
        from tasks.cluster import in_cluster
    except ImportError as error:
        fix = "pip install 'closingbell[dask]', or leave TASK_RUNNER at threads."
        raise ConfigurationError("Dask is not installed", value=error.name, fix=fix) from None
    return in_cluster(work, lanes, resources)


@contextmanager
def _in_threads(work: Work, lanes: Lanes, resources: Resources) -> Iterator[Fetching]:
    """Each asset class in threads of its own."""
    with (
        resources.flushing(work.run_id, work.source, work.now) as flusher,
        side_by_side(len(lanes)) as runners,
    ):

        def hand_out() -> list[PrefectFuture[Tally]]:
            futures: list[PrefectFuture[Tally]] = []
            for runner, (lane, batches) in zip(runners, lanes.items(), strict=True):
                step: Task[..., Any] = ingest_batch.with_options(**retries_in_threads(resources.settings, lane))
                futures += runner.map(step, {"batch": batches, "work": unmapped(work)})
            return futures

        yield Fetching(hand_out, flusher.take)
