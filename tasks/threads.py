"""How many batches of a run are worked on at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from closingbell.errors import ConfigurationError
from closingbell.settings import Settings, read


def threads() -> TaskRunner[Any]:
    """The task runner, as wide as the setting FETCH_THREADS.

    A setting that cannot be read is not an error here, on import: the run says it, readably.
    """
    return ThreadPoolTaskRunner(max_workers=_width())


@contextmanager
def side_by_side(count: int) -> Iterator[list[TaskRunner[Any]]]:
    """So many task runners for the time of the block, the threads of FETCH_THREADS shared out among them.

    A task that waits, be it for its next retry, keeps its thread: what shall not wait with it needs another runner.
    The flow's own does where one is enough.
    """
    context = FlowRunContext.get()
    with ExitStack() as stack:
        if context is not None and count == 1:
            yield [context.task_runner]
        else:
            each = max(1, _width() // max(count, 1))
            runners: list[TaskRunner[Any]] = [ThreadPoolTaskRunner(max_workers=each) for _ in range(count)]
            yield [stack.enter_context(runner) for runner in runners]


def _width() -> int:
    try:
        return read().fetch_threads
    except ConfigurationError:
        return int(Settings.model_fields["fetch_threads"].default)
