"""Looking at processes, and a database directory that tests copy instead of making it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ProcessesOf = Callable[[Path], list[str]]
Eventually = Callable[..., None]


def _processes_of(home: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                inside = str((entry / "cwd").readlink())  # fails for the dead
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(home) in f"{line} {inside} {environment}":
                found.append(f"{entry.name} {line}")
    return found


def _eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def processes_of() -> ProcessesOf:
    """The live processes, this one excluded, that have the home in command line, directory or environment."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc")
    return _processes_of


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait until a condition holds, or fail at the deadline (seconds)."""
    return _eventually
