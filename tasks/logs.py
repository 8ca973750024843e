"""What the library says, in the run's own log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.logging.loggers import flow_run_logger

#: The library's loggers: waits for the database, for Prefect, for the quota.
LIBRARY = "closingbell"


class _Forward(logging.Handler):
    """Hands records on to a run's logger, from whatever thread they come: a keeper's has no run of its own."""

    def __init__(self, run: logging.LoggerAdapter[logging.Logger] | logging.Logger, least: int) -> None:
        super().__init__(least)
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        """Say it in the run's log."""
        self._run.log(record.levelno, record.getMessage())


@contextmanager
def in_run_log(of: str = LIBRARY, least: int = logging.INFO) -> Iterator[None]:
    """Show what the library's loggers say in the log of the present run, for the time of the block.

    Args:
        of: another library's loggers instead.
        least: nothing of a lower level.
    """
    logger, forward = logging.getLogger(of), _Forward(_run_logger(), least)
    before = logger.level
    logger.setLevel(least)
    logger.addHandler(forward)
    try:
        yield
    finally:
        logger.removeHandler(forward)
        logger.setLevel(before)


def _run_logger() -> logging.LoggerAdapter[logging.Logger] | logging.Logger:
    """That of the flow run, also from within one of its tasks in another process."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return get_run_logger()
    return flow_run_logger(context.flow_run, context.flow)
