"""A run, as it happens, in the Prefect UI: a progress artifact with calls, rate and time left.

A run that is over within moments has none: it costs a normal night nothing. It is shown from the run's own row, so that
it counts what is committed, whichever process made the calls; and by a thread that nobody waits for.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext

from closingbell.errors import ClosingbellError
from closingbell.pace import Pace
from closingbell.store.records import Records
from tasks.endurance import put_artifact

#: Seconds until a run is shown, and between two looks at it.
LOOK: Final = 3.0

#: Seconds that the end of a run waits for the last look.
_LAST: Final = 2.0

#: The artifact of each run that was shown in this process.
_shown: dict[UUID, UUID] = {}


@contextmanager
def shown(records: Records) -> Iterator[None]:
    """Show the present flow run in the UI for the time of the block; whatever goes wrong with that, it goes on."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    over, run_id = threading.Event(), context.flow_run.id
    keep = contextvars.copy_context().run
    thread = threading.Thread(target=keep, args=(_follow, records, run_id, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_LAST)


def _follow(records: Records, run_id: UUID, over: threading.Event) -> None:
    """Look at the run's row every :data:`LOOK` seconds, and once more at the end if there was time for one."""
    pace: Pace | None = None
    while not over.wait(LOOK):
        pace = _look(records, run_id, pace)
    if pace is not None:
        _look(records, run_id, pace)


def _look(records: Records, run_id: UUID, pace: Pace | None) -> Pace | None:
    try:
        row = records.progress(run_id)
    except ClosingbellError:
        return pace  # Whoever runs the run says what is wrong with the database; here it only shows no progress.
    if row is None:
        return pace
    pace = pace or Pace(row["planned_calls"])
    pace.see(row["actual_calls"], time.monotonic())
    first = f"{pace.left:,} calls left" + (f", {pace.left_told}" if pace.left_told else "")
    said = f"{first}: {pace.made:,} of {pace.planned:,} made, {row['accepted_bars']:,} bars, {pace.rate_told}"
    percent = round(100 * pace.share, 1)
    if run_id in _shown:
        put_artifact(update_progress_artifact, _shown[run_id], progress=percent, description=said)
    elif made := put_artifact(create_progress_artifact, percent, key="progress", description=said):
        _shown[run_id] = made
    return pace
