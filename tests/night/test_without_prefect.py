"""What the benchmarks take Prefect's share of a run from: the same run, with everything of Prefect's replaced."""

from __future__ import annotations

import json

import pytest

from benchmarks.plain import without_prefect
from closingbell.store import Store
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect

ASKED = {"tickers": ["AAPL", "MSFT"], "start": "2026-02-02", "end": "2026-03-06", "timeframes": ["1d"]}


def test_a_run_without_prefect_does_the_same(nights: Nights, store: Store) -> None:
    from flows.ingest import ingest

    with without_prefect():
        ingest.fn(**ingest.validate_parameters(ASKED))
    (report,) = (nights.home / "runs").glob("*.json")
    plain = json.loads(report.read_text())
    assert plain["state"] == "Completed"
    assert plain["stored_bars"] == plain["inserted"] == 2 * 24
    assert store.records.audit()["polygon", "1d"].balanced

    again = nights.ingest(**ASKED)
    assert (again["planned_calls"], again["inserted"], again["stored_bars"]) == (0, 0, 2 * 24)
