"""A run, as it happens: the plan, then calls, cells, rate and time left, from the run's own row.

The row is written in the same transaction as the bars, so what is shown is committed, whichever process runs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from closingbell.errors import ClosingbellError
from closingbell.pace import Pace
from closingbell.store.records import Records

#: Seconds between two looks at the row.
_LOOK: Final = 0.25
#: Warnings shown of one run.
_WARNINGS: Final = 20
#: Seconds between two lines where there is no terminal to draw on.
_LINE: Final = 10.0


class _Warnings(logging.Handler):
    """Shows what goes wrong in a run of this process while it goes on; the first of it, for a storm has thousands."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        self._told = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        if record.module == "task_engine" or self._told > _WARNINGS:
            return  # Prefect says once more that a task failed
        self._told += 1
        more = "more of this is in the run's log" if self._told > _WARNINGS else record.getMessage()
        self._console.print(f"{'warning':<8} {more}", markup=False, soft_wrap=True)


class _Batches(logging.Handler):
    """Shows each batch of bars that a run of this process commits."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        self._console.print(record.getMessage(), markup=False, soft_wrap=True)


class Watch:
    """Shows one run on standard error until it is stopped.

    Args:
        records: reads the run's row.
        console: where to show it.
    """

    def __init__(self, records: Records, console: Console | None = None) -> None:
        self.run_id: UUID | None = None
        self._records = records
        self._console = console or Console(stderr=True, highlight=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    @contextmanager
    def showing(self) -> Iterator[Watch]:
        """Show the run whose id is set meanwhile."""
        self._thread.start()
        warnings = _Warnings(self._console)
        batches, loading = _Batches(self._console), logging.getLogger("closingbell.loading")
        loading.addHandler(batches)
        loggers = [logging.getLogger(name) for name in ("closingbell", "prefect.task_runs")]
        for logger in loggers:
            logger.addHandler(warnings)
        try:
            yield self
        finally:
            loading.removeHandler(batches)
            for logger in loggers:
                logger.removeHandler(warnings)
            self._over.set()
            self._thread.join()

    def _follow(self) -> None:
        drawn = Progress(
            TextColumn("        "),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[bars]:,} bars, {task.fields[rate]} {task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        told, bar, pace = 0.0, None, Pace(0)
        with drawn:
            while not self._over.wait(_LOOK):
                row = self._read()
                if row is None:
                    continue
                if bar is None:
                    told, pace = time.monotonic(), Pace(row["planned_calls"])
                    self._tell_plan(row)
                    bar = drawn.add_task("", total=row["planned_calls"], bars=0, rate="", left="")
                self._draw(drawn, bar, row, pace)
                if not self._console.is_terminal and time.monotonic() - told > _LINE:
                    told = time.monotonic()
                    self._console.print(f"         {pace.told(row['accepted_bars'])}", soft_wrap=True)
            if bar is not None and (row := self._read()):
                self._draw(drawn, bar, row, pace)

    def _read(self) -> Mapping[str, Any] | None:
        try:
            return self._records.progress(self.run_id) if self.run_id else None
        except ClosingbellError:
            return None  # Whoever runs the run says what is wrong with the database; here it only shows no progress.

    def _tell_plan(self, row: Mapping[str, Any]) -> None:
        for number, line in enumerate(row["plan"]["told"]):
            self._console.print(f"{'plan' if not number else '':<8} {line}", markup=False, soft_wrap=True)

    @staticmethod
    def _draw(drawn: Progress, bar: TaskID, row: Mapping[str, Any], pace: Pace) -> None:
        pace.see(row["actual_calls"], time.monotonic())
        total = max(row["planned_calls"], row["actual_calls"])
        left = f"({pace.left_told})" if pace.left_told else ""
        drawn.update(
            bar, completed=row["actual_calls"], total=total, bars=row["accepted_bars"], rate=pace.rate_told, left=left
        )
