"""Starting and ending it, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from closingbell.errors import FatalError
from infra.market.command import market as command
from infra.market.process import MarketProcess, start

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import sys, time
from infra.market.process import MarketProcess
market = MarketProcess(size=10)
print(market.pid, market.url, flush=True)
time.sleep(600)
"""


def test_it_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().split()[1]
    assert httpx.get(url + "/_market/health").json()["ready"]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            httpx.get(url + "/_market/health")
        except httpx.TransportError:
            return
        time.sleep(0.05)
    pytest.fail("the market outlived its parent")


def test_what_it_says_when_it_cannot_start() -> None:
    with pytest.raises(FatalError, match=r"did not start.*does not exist"):
        MarketProcess(replay="/nowhere/bars.csv")


def test_stopping_twice_is_fine_and_settings_are_told(tmp_path: Path) -> None:
    running = start(size=12, seed=5, quota="5/6s", keys=("hush",), window="fixed")
    try:
        told = running.health()["config"]
        assert (told["size"], told["seed"], told["window"], told["keys"]) == (12, 5, "fixed", 1)
        assert told["quota"] == {"calls": 5, "seconds": 6.0}
        assert "hush" not in json.dumps(running.health())
        assert running.settings["url"] == running.url
    finally:
        running.stop()
        running.stop()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--now", "2026-03-02"], "no offset"),
        (["--now", "noon"], "not an instant"),
        (["--quota", "lots"], "not a rate"),
        (["--host", "256.1.1.1"], "cannot listen"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(args: list[str], said: str) -> None:
    result = CliRunner().invoke(command, args)
    assert result.exit_code != 0
    assert said in f"{result.output}{result.exception}"
