"""The command, as a process of its own that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

#: Everything a run leaves behind that must not depend on how often it was killed.
CONTENTS = (
    "SELECT ticker, timeframe, session, ts, open, high, low, close, volume, vwap, trades, source FROM bar",
    "SELECT ticker, timeframe, session, reason FROM gap",
    "SELECT ticker, timeframe, first_session, last_session FROM watermark",
    "SELECT ticker, timeframe, ts, copy, rule, open, high, low, close, volume FROM quarantine",
    "SELECT ticker, execution_date, split_from, split_to FROM split",
    "SELECT ticker, session FROM revision",
)


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start ``closingbell`` with these settings beside the Prefect ones of this process."""
    return subprocess.Popen(
        [sys.executable, "-m", "closingbell.cli", *arguments, "--json"],
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = 200) -> tuple[str, str]:
    """Wait for its end; what it said. One that does not come to its end tells what its threads are at instead."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, errors = process.communicate()
        pytest.fail(f"it has not ended after {seconds:.0f} s: {out}{errors}")


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for it; its report, with the exit code."""
    out, errors = ended(process)
    assert out, errors
    told: dict[str, Any] = json.loads(out)
    return {**told, "exit_code": process.returncode}


def contents(url: str) -> list[list[tuple[Any, ...]]]:
    """Every row that matters, in one order."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [sorted(connection.execute(sa.text(q)).tuples().all(), key=repr) for q in CONTENTS]
