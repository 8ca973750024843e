"""One whole run of the ingest flow, in a process of its own that measures itself.

    python -m benchmarks.whole '{"tickers": ["AAPL"], "start": "2025-01-02"}' [plain]

Its surroundings (database, Prefect server, market) are in the environment, as for any run; its last line is JSON.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

#: What Prefect and this project load when it is first used.
_LATE: Final = (
    "closingbell.store.postgres",
    "fastapi",
    "PIL.ImageDraw",
    "PIL.PngImagePlugin",
    "prefect.flow_engine",
    "prefect.utilities.visualization",
)

_ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Measured:
    """A run, measured from inside its process.

    Attributes:
        told: its report.
        seconds: from the call of the flow to its final state. Starting Python and loading modules is no part of it, nor
            is the second at most for which Prefect then waits for the thread of its heartbeats.
        cpu: processor seconds of the process in that time.
        before: MB of memory when the flow was called, all modules loaded.
        peak: MB of memory at most.
    """

    told: dict[str, Any]
    seconds: float
    cpu: float
    before: float
    peak: float

    @property
    def bars(self) -> int:
        """Bars stored."""
        return cast(int, self.told["stored_bars"])


def run(environment: Mapping[str, str], *, plain: bool = False, **parameters: Any) -> Measured:
    """Run the ingest flow with these parameters in a child process.

    Args:
        environment: the settings.
        plain: with Prefect taken out of it, see :mod:`benchmarks.plain`.
        **parameters: the flow's.

    Raises:
        RuntimeError: it did not complete.
    """
    command = [sys.executable, "-m", "benchmarks.whole", json.dumps(parameters), *(["plain"] if plain else [])]
    done = subprocess.run(  # noqa: S603  # our own module
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, cwd=_ROOT
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"the run failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    found = Measured(**json.loads(lines[-1]))
    if found.told["state"] != "Completed":
        raise RuntimeError(f"the run ended {found.told['state']}: {found.told.get('error') or found.told['failed']}")
    return found


def _main() -> None:
    from benchmarks.plain import without_prefect
    from flows.ingest import ingest

    for module in _LATE:
        importlib.import_module(module)
    logging.disable(logging.WARNING)
    home = Path(os.environ["CLOSINGBELL_HOME"])
    earlier = set((home / "runs").glob("*.json"))
    parameters = json.loads(sys.argv[1])
    if "plain" in sys.argv:
        with without_prefect():
            measured = _measured(lambda: ingest.fn(**ingest.validate_parameters(parameters)))
    else:
        measured = _measured(lambda: ingest(**parameters, return_state=True).timestamp)
    (report,) = set((home / "runs").glob("*.json")) - earlier
    told = json.loads(report.read_text())
    print(json.dumps({"told": told, **measured}))


def _measured(work: Callable[[], object]) -> dict[str, float]:
    before, cpu, begun = _memory(), time.process_time(), datetime.now(UTC)
    ended = work()
    ended = ended if isinstance(ended, datetime) else datetime.now(UTC)
    cpu = time.process_time() - cpu
    return {"seconds": (ended - begun).total_seconds(), "cpu": cpu, "before": before, "peak": _memory()}


def _memory() -> float:
    """MB of the largest resident set so far."""
    try:  # of this program alone: what getrusage says begins with the size of the process that started it
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    _main()
