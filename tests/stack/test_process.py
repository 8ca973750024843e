"""Children on the leash: ready or a reason, ended with all they started, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from closingbell.errors import FatalError
from infra.process import Child, stop

ProcessesOf = Callable[[Path], list[str]]
Eventually = Callable[..., None]

#: Starts a grandchild in a session of its own, deaf to TERM, and is deaf to TERM itself if asked to be.
FAMILY = """
import signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def family(home: Path, *arguments: str, grace: float = 0.3) -> Child:
    return Child("the family", [sys.executable, "-c", FAMILY, *arguments], home / "log", cwd=home, grace=grace)


def test_it_is_ready_when_the_condition_says_so(tmp_path: Path, processes_of: ProcessesOf) -> None:
    with family(tmp_path) as child:
        child.wait_ready(lambda: child.said("ready"), 20)
        assert child.poll() is None
        assert child.log.stat().st_mode & 0o077 == 0
    assert processes_of(tmp_path) == []


def test_one_that_ends_early_is_reported_at_once_with_its_last_words(tmp_path: Path) -> None:
    started = time.monotonic()
    child = Child("the loser", [sys.executable, "-c", "import sys; sys.exit('no luck')"], tmp_path / "log")
    with child, pytest.raises(FatalError, match=r"the loser ended with status 1(?s:.*)no luck"):
        child.wait_ready(lambda: False, 60)
    assert time.monotonic() - started < 30


def test_one_that_never_gets_ready_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    with family(tmp_path) as child, pytest.raises(FatalError, match=r"did not get ready in 0\.2 s"):
        child.wait_ready(lambda: False, 0.2)


def test_a_program_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    child = Child("nothing", [str(tmp_path / "missing")], tmp_path / "log")
    with child, pytest.raises(FatalError, match="cannot run"):
        child.wait_ready(lambda: False, 20)


def test_the_deaf_are_killed_after_their_grace_and_together(tmp_path: Path, processes_of: ProcessesOf) -> None:
    children = [family(tmp_path, "deaf") for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.wait_ready(lambda: child.said("ready") and child.said("deaf"), 20)  # noqa: B023 - called at once
    stop(children)
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("whom", ["parent", "leash"])
def test_a_kill_leaves_nobody_behind(
    tmp_path: Path, processes_of: ProcessesOf, eventually: Eventually, whom: str
) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom infra.process import Child\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        f"child = Child('it', command, Path({str(tmp_path / 'log')!r}))\n"
        "child.start()\nprint(child._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    environment = {**os.environ, "MARK": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert parent.stdout
        leash = int(parent.stdout.readline())
        eventually(lambda: len(processes_of(tmp_path)) == 3)  # parent, leash, child
        os.kill(leash if whom == "leash" else parent.pid, signal.SIGKILL)
        eventually(lambda: len(processes_of(tmp_path)) == (1 if whom == "leash" else 0))
    finally:
        parent.kill()
        parent.communicate()
