"""What a run shows of itself in the UI while it goes on and afterwards, and the morning's look."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from prefect.states import Running

from closingbell.errors import FatalError
from tasks import links, progress
from tests.night.conftest import Nights
from tests.ui.conftest import Deployed

pytestmark = pytest.mark.prefect


def linked(markdown: str, title: str) -> str:
    """Where a link of that title leads."""
    return markdown.partition(f"[{title}](")[2].partition(")")[0]


def test_a_dry_run_shows_what_it_would_cost_and_where_to_start_it(nights: Nights, deployed: Deployed) -> None:
    from flows.ingest import ingest

    nights.ingest(tickers=["AAPL"], start="2026-03-02")
    nights.market.clear_calls()
    same: dict[str, Any] = {"tickers": ["AAPL", "MSFT"], "start": "2026-03-02"}
    run, state = deployed.run("nightly", ingest, **same, source=None, dry_run=True)
    assert (state.name, nights.paths()) == ("Completed", [])
    plan = deployed.artifacts(run.id)["plan"]
    shown = str(plan.data)
    assert shown.startswith("## Dry run: 1 call, under a second\n")
    assert plan.description == "Dry run: 1 call, under a second"
    for line in (
        "| tickers | 2 (AAPL, MSFT) |",
        "| dates | 2026-03-02 to 2026-03-06 |",
        "| cells | 5 to fill, in 5 rows |",
        "| 1d | stocks | 1 | 2026-03-02 | 2026-03-06 | 5 | 5 | under a second |",
        "| 5 | stored | left out |",
        "| 5 | never asked for, or lost | asked for |",
    ):
        assert line in shown.splitlines(), shown
    link = linked(shown, "Start it for real")
    asked = json.loads(parse_qs(urlsplit(link).query)["parameters"][0])
    assert asked == same, "the same, for real"
    for page in ("artifacts/artifact/4f", "artifacts/key/plan", f"runs/flow-run/{run.id}"):
        for served in ("http://host:4200/v2/", "https://prefect.example/some/prefix/"):
            form = urlsplit(urljoin(served + page, link))._replace(query="").geturl()
            assert form == f"{served}deployments/deployment/{deployed.ids['nightly']}/run"


def test_a_link_that_no_address_holds_is_left_out(deployed: Deployed) -> None:
    assert links.to_form(deployed.ids["nightly"], {"tickers": ["AAPL"] * 2_000}) is None
    assert links.for_real() is None, "no run"


def test_a_run_that_takes_a_while_shows_its_calls_its_rate_and_the_time_left(
    nights: Nights, deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.ingest import ingest

    monkeypatch.setattr(progress, "LOOK", 0.2)
    seen: list[str] = []

    def update(_: Any, **more: Any) -> None:
        seen.append(more["description"])
        real(_, **more)

    real = progress.update_progress_artifact
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    nights.quota("2/1s")
    names = ["AAPL", "MSFT", "NVDA", "XOM", "KO", "JPM"]
    run, state = deployed.run("nightly", ingest, tickers=names, start="2025-09-02", batch_size=1)
    assert state.name == "Completed"
    shown = deployed.artifacts(run.id)["progress"]
    assert shown.data == 100.0
    assert str(shown.description).startswith("0 calls left: 7 of 7 made, ")
    assert any(" to go: " in each for each in seen), seen
    assert sum(artifact == "progress" for artifact in deployed.artifacts(run.id)) == 1


@pytest.mark.soak
def test_progress_that_cannot_be_shown_changes_no_night(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def broken(*what: object, **_: object) -> None:
        tried.append(what)
        raise ConnectionError("nobody there")

    monkeypatch.setattr(progress, "LOOK", 0.05)
    monkeypatch.setattr(progress, "create_progress_artifact", broken)
    monkeypatch.setattr("tasks.signals.emit_event", broken)
    nights.quota("2/1s")
    nights.setenv("MAX_RETRIES", "0")
    nights.market.fault("status", status=500, path="/ticker/MSFT/")
    told = nights.ingest(tickers=["AAPL", "MSFT", "KO", "XOM"], start="2026-01-05", batch_size=1)
    assert told["state_name"] == "PartiallyCompleted"
    assert len(tried) > 1


def test_a_normal_night_has_no_progress_to_show(nights: Nights, deployed: Deployed) -> None:
    from flows.ingest import ingest

    run, _ = deployed.run("nightly", ingest, tickers=["AAPL"], start="2026-03-02")
    assert deployed.artifacts(run.id).keys() >= {"plan", "report"}
    assert "progress" not in deployed.artifacts(run.id)


def test_the_morning_fails_loudly_where_the_night_did_not_bring_what_it_should(
    nights: Nights, deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.morning import morning

    def look(**asked: Any) -> tuple[str, str]:
        state: Any = morning(wait_minutes=0, **asked, return_state=True)
        return state.name, state.message

    assert look() == ("Completed", "the nightly schedule is off: there is nothing to look for")
    name, said = look(always=True, tickers=["AAPL", "MSFT"])
    assert name == "Failed"
    assert "the session of 2026-03-06 is not complete: 2 of 2 cells (2 not asked for): AAPL, MSFT." in said

    nights.setenv("MAX_RETRIES", "0")
    nights.market.fault("status", status=500, path="/ticker/MSFT/")
    nights.ingest(tickers=["AAPL", "MSFT"], start="2026-01-05")
    name, said = look(always=True, tickers=["AAPL", "MSFT"])
    assert name == "Failed"
    assert "1 of 2 cells (1 failed): MSFT." in said
    assert "closingbell retry all" in said
    assert look(always=True, tickers=["AAPL"])[0] == "Completed"

    # A night that is under way may still bring it: its end is waited for.
    late = deployed.client.create_flow_run_from_deployment(deployed.ids["nightly"], parameters={})
    deployed.client.set_flow_run_state(late.id, Running(), force=True)
    assert "A run is under way still" in look(always=True, tickers=["MSFT"])[1]
    deployed.client.delete_flow_run(late.id)
    nights.market.clear_faults()
    nights.retry(run_id="all")
    assert look(always=True, tickers=["AAPL", "MSFT"]) == (
        "Completed",
        "the session of 2026-03-06 is complete: 2 cells accounted for",
    )

    def away(*_: object, **__: object) -> None:
        raise FatalError("the database is away", fix="Start it")

    monkeypatch.setattr("closingbell.morning.look", away)
    assert look(always=True, tickers=["AAPL"]) == ("Failed", "the database is away. Start it")
