"""How many batches of a run are worked on at once."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from closingbell.errors import ConfigurationError
from closingbell.settings import Settings, read


def threads() -> TaskRunner[Any]:
    """The task runner, as wide as the setting FETCH_THREADS.

    A setting that cannot be read is not an error here, on import: the run says it, readably.
    """
    try:
        width = read().fetch_threads
    except ConfigurationError:
        width = int(Settings.model_fields["fetch_threads"].default)
    return ThreadPoolTaskRunner(max_workers=width)
