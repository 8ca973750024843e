"""The same nights into PostgreSQL, old and new, and into Oracle: the same reports, and afterwards the same contents."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner

from closingbell.cli import CANNOT_RUN, CELLS_FAILED, OK, cli
from closingbell.store import open_store
from tests.databases import contents
from tests.night.conftest import Nights
from tests.night.test_splits import LAST as FRIDAY
from tests.night.test_splits import go_to, night_after

pytestmark = pytest.mark.prefect

NEW = ["AAPL", "MSFT", "NVDA", "JPM"]
THURSDAY = FRIDAY.replace(day=5)

#: What a report says of the one run, and not of what it did.
OF_THE_RUN = {"run_id", "next_command", "message", "seconds", "started_at", "ended_at", "retried", "of_run"}


@pytest.fixture(scope="module")
def embedded() -> dict[str, Any]:
    """What came of the nights on the embedded PostgreSQL, once one test has played them there."""
    return {}


@pytest.mark.parametrize("other", ["older_url", "oracle_url"])
def test_the_nightly_flow_comes_to_the_same_on_both(
    nights: Nights, embedded: dict[str, Any], other: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(other)
    if not embedded:
        embedded |= {"reports": _three_nights(nights, nights.database_url), "held": _contents(nights.database_url)}
    theirs, holds = _three_nights(nights, url), _contents(url)
    reports, held = embedded["reports"], embedded["held"]
    assert [report["state_name"] for report in reports] == ["Completed", "PartiallyCompleted", "Completed", "Completed"]
    for report, its in zip(reports, theirs, strict=True):
        assert _comparable(report) == _comparable(its)
    for table, rows in held.items():
        assert rows == holds[table], table
    # All of it has happened.
    for table in ("bar", "watermark", "gap", "quarantine", "revision", "split", "dividend", "run"):
        assert held[table], table


def _three_nights(nights: Nights, url: str) -> list[dict[str, Any]]:
    """A calm one with a split and a bar in quarantine; one in which calls fail; a retry; and the facts."""
    nights.setenv("DATABASE_URL", url)
    nights.setenv("MAX_RETRIES", "0")
    market = nights.market
    market.clear_faults()
    market.split("SPY", "2026-02-24", 1, 2)
    market.dividend("QQQ", "2026-02-25", 0.5)
    market.fault("revise", ticker="IWM", date="2026-03-03", values={"high": 0.01})
    go_to(nights, night_after(THURSDAY))
    reports = [nights.ingest(universe="etfs", start="2026-02-02")]

    go_to(nights, night_after(FRIDAY))
    market.fault("revise", ticker="QQQ", date="2026-03-04", values={"volume": 1_234_567.5})
    for ticker in NEW[:2]:
        market.fault("status", status=500, path=f"/ticker/{ticker}/range", times=1)
    market.fault("truncate", path=f"/ticker/{NEW[2]}/range", times=1)
    from closingbell.universe import load

    reports.append(nights.ingest(tickers=[*load("etfs"), *NEW], start="2026-02-02", recheck_sessions=4))
    reports.append(nights.retry(run_id="all"))
    reports.append(nights.facts(universe="etfs"))
    return reports


def _comparable(report: dict[str, Any]) -> dict[str, Any]:
    """Which answers came first decides which examples are told, and how many went into a transaction."""
    told = {name: value for name, value in report.items() if name not in OF_THE_RUN}
    loading = {name: value for name, value in told["loading"].items() if name not in ("commits", "retries")}
    return told | {"examples": sorted(told["examples"]), "loading": loading}


def _contents(url: str) -> dict[str, Any]:
    with closing(open_store(url)) as store:
        return contents(store.engine)


@pytest.mark.soak
def test_the_commands_work_on_an_oracle(nights: Nights, oracle_url: str) -> None:
    nights.setenv("DATABASE_URL", oracle_url)
    nights.setenv("MAX_RETRIES", "0")
    asked = ("-t", ",".join(NEW), "--start", "2026-03-02", "--end", "2026-03-06")
    nights.market.fault("status", status=500, path=f"/ticker/{NEW[0]}/range", times=1)

    assert "5 calls: 4 ticker ranges, 1 look at splits" in _answer("plan", *asked)
    assert "5 failed" in _said(CELLS_FAILED, "ingest", *asked)
    assert "15 bars of 3 tickers, 2026-03-02 to 2026-03-06\ngaps 5 failed;" in _answer("status")
    assert f"{NEW[0]}\n  polygon 1d  2026-03-02 to 2026-03-06 accounted for, 0 bars" in _answer("status", NEW[0])
    assert "20 expected = 15 stored + 5 failed" in _answer("doctor")
    assert "5 expected = 5 stored" in _said(OK, "retry", "all")
    assert "20 expected = 20 stored" in _answer("doctor")

    wrong = oracle_url.replace("closingbell:", "closingbell:not-", 1)
    nights.setenv("DATABASE_URL", wrong)
    error = _said(CANNOT_RUN, "status")
    assert "the database refuses the user or the password" in error
    assert "not-" not in error


def _answer(*arguments: str) -> str:
    """What the command says, in this process."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == OK, result.output
    return result.output


def _said(code: int, *arguments: str) -> str:
    """What the command says in a process of its own, which ends with a code."""
    command = [sys.executable, "-m", "closingbell.cli", *arguments]
    ended = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=100, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode == code, said
    return said
