"""What the library says, in the run's own log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_run_logger

#: The library's loggers: waits for the database, for Prefect, for the quota.
LIBRARY = "closingbell"


class _Forward(logging.Handler):
    """Hands records on to a run's logger, from whatever thread they come: a keeper's has no run of its own."""

    def __init__(self, run: logging.LoggerAdapter[logging.Logger] | logging.Logger) -> None:
        super().__init__(logging.INFO)
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        """Say it in the run's log."""
        self._run.log(record.levelno, record.getMessage())


@contextmanager
def in_run_log() -> Iterator[None]:
    """Show what the library's loggers say in the log of the present run, for the time of the block."""
    logger, forward = logging.getLogger(LIBRARY), _Forward(get_run_logger())
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(forward)
    try:
        yield
    finally:
        logger.removeHandler(forward)
        logger.setLevel(before)
