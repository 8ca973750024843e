"""What the Prefect server does by itself: a real one, a real market, a real receiver of messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import AutomationCore
from prefect.events.worker import EventsWorker
from prefect.states import Crashed, Failed, Running

from closingbell.settings import load
from deployments import automations
from deployments.bootstrap import bootstrap
from tests.night.conftest import Nights
from tests.security.search import KEY
from tests.ui.conftest import Deployed

pytestmark = pytest.mark.prefect

Soon = Callable[[Callable[[], Any]], Any]

OURS = (automations.RETRIES, automations.FAILURES, automations.NOT_BEGUN)


@pytest.fixture(autouse=True)
def gone(deployed: Deployed) -> Iterator[None]:
    """No automation of ours before and after, but for the one that other tests know."""

    def clear() -> None:
        for name in OURS:
            for one in deployed.client.read_automations_by_name(name):
                deployed.client.delete_automation(one.id)

    clear()
    yield
    clear()


@pytest.fixture
def hook(deployed: Deployed, received: tuple[str, list[dict[str, Any]]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A notification block that posts to this process, by its name; and what came."""
    address, said = received
    block = CustomWebhookNotificationBlock(
        name="hook", url=address, json_data={"subject": "{{subject}}", "body": "{{body}}"}, secrets={"token": KEY}
    )
    block.save("front-door", overwrite=True, _sync=True)  # type: ignore[call-arg]
    yield "custom-webhook/front-door", said
    document = deployed.client.read_block_document_by_name("front-door", "custom-webhook")
    deployed.client.delete_block_document(document.id)


def retries(deployed: Deployed) -> list[FlowRun]:
    of = DeploymentFilter.model_validate({"id": {"any_": [deployed.ids["retry"]]}})
    return sorted(deployed.client.read_flow_runs(deployment_filter=of), key=lambda run: str(run.expected_start_time))


def test_what_a_night_left_is_asked_for_again_twice_and_no_more(nights: Nights, deployed: Deployed, soon: Soon) -> None:
    from flows.ingest import ingest
    from flows.retry_failed import retry_failed

    automations.ensure_all(deployed.client)
    nights.setenv("MAX_RETRIES", "0")
    nights.market.fault("status", status=500, path="/ticker/MSFT/")
    asked: dict[str, Any] = {"tickers": ["AAPL", "MSFT"], "start": "2026-01-05"}

    run, state = deployed.run("nightly", ingest, **asked)
    assert state.name == "PartiallyCompleted"
    EventsWorker.drain_all()
    first, second = soon(lambda: found if len(found := retries(deployed)) == 2 else None)

    now = datetime.now(UTC)
    for retry, after in ((first, automations.AFTER[0]), (second, automations.AFTER[1])):
        assert retry.parameters == {"run_id": str(run.id)}
        assert retry.state.is_scheduled()
        assert abs(retry.expected_start_time - now - after) < timedelta(minutes=5), "not within minutes"
    report = str(deployed.artifacts(run.id)["report"].data)
    assert f"../../deployments/deployment/{deployed.ids['retry']}/run?parameters=" in report

    # A retry that fails as well is not retried, and neither is a run that somebody started by hand.
    _, state = deployed.run("retry", retry_failed, run_id=str(run.id))
    assert state.is_failed()
    assert nights.ingest(**asked | {"start": date(2026, 1, 5)})["state_type"] == "FAILED"
    nights.market.clear_faults()
    nights.market.clear_calls()
    _, state = deployed.run("retry", retry_failed, run_id=str(run.id))
    assert (state.name, len(nights.bar_calls())) == ("Completed", 1), "exactly what had failed"
    _, state = deployed.run("retry", retry_failed, run_id=str(run.id))
    assert (state.name, len(nights.bar_calls())) == ("Completed", 1), "nothing is left, no call"
    EventsWorker.drain_all()
    assert len([one for one in retries(deployed) if one.created_by and one.created_by.type == "AUTOMATION"]) == 2


def test_a_setting_that_a_person_has_to_mend_is_not_retried(nights: Nights, deployed: Deployed) -> None:
    from flows.ingest import ingest

    automations.ensure_all(deployed.client)
    nights.market.fault("status", status=401, body={"error": "unknown key"})
    _, state = deployed.run("nightly", ingest, tickers=["AAPL"], start="2026-03-02")
    assert state.is_failed()
    EventsWorker.drain_all()
    assert retries(deployed) == []


def test_a_failure_is_told_once_with_its_run_its_cause_and_its_link(
    deployed: Deployed, hook: tuple[str, list[dict[str, Any]]], soon: Soon
) -> None:
    name, said = hook
    bootstrap(load(notify_block=name))
    ended: list[FlowRun] = []
    for state in (Failed(message="the database is away: db:5432. Start it"), Crashed(message="it was killed")):
        run = deployed.client.create_flow_run_from_deployment(deployed.ids["nightly"], parameters={"tickers": ["AAPL"]})
        deployed.client.set_flow_run_state(run.id, Running(), force=True)
        deployed.client.set_flow_run_state(run.id, state, force=True)
        ended.append(run)
    soon(lambda: len(said) >= 2)
    said.sort(key=lambda one: one["subject"], reverse=True)
    for one, run, (how, cause) in zip(
        said, ended, (("Failed", "the database is away: db:5432. Start it"), ("Crashed", "it was killed")), strict=True
    ):
        assert one["subject"] == f"closingbell: ingest/nightly is {how}"
        assert f"The run {run.name} of ingest/nightly is {how}." in one["body"]
        assert f"Cause: {cause}" in one["body"]
        assert f"/runs/flow-run/{run.id}" in one["body"]
        assert KEY not in str(one)


def test_no_one_is_told_where_nobody_is_named_and_a_missing_block_is_said(deployed: Deployed) -> None:
    assert not any("tell" in line for line in automations.ensure_all(deployed.client))
    said = automations.ensure_all(deployed.client, "slack-webhook/nobody")
    assert any("there is no notification block slack-webhook/nobody" in line for line in said)
    assert deployed.client.read_automations_by_name(automations.FAILURES) == []


def test_an_automation_follows_its_code_until_a_person_changes_it(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = deployed.client

    def ensured() -> str:
        (line,) = [line for line in automations.ensure_all(client) if automations.RETRIES in line]
        return line.rpartition(": ")[2]

    def delays() -> list[timedelta]:
        (found,) = client.read_automations_by_name(automations.RETRIES)
        return [action.schedule_after for action in found.actions]  # type: ignore[union-attr]

    assert [ensured(), ensured()] == ["created", "there already"]
    (found,) = client.read_automations_by_name(automations.RETRIES)
    client.pause_automation(found.id)
    monkeypatch.setattr(automations, "AFTER", (timedelta(hours=1),))
    assert [ensured(), ensured()] == ["changed", "there already"]
    assert delays() == [timedelta(hours=1)]
    (found,) = client.read_automations_by_name(automations.RETRIES)
    assert not found.enabled, "who turned it off wants it off"

    mine = {
        **found.model_dump(exclude={"id", "owner_resource"}),
        "description": "mine",
        "actions": [found.actions[0].model_dump()] * 2,
    }
    client.update_automation(found.id, AutomationCore.model_validate(mine))
    monkeypatch.setattr(automations, "AFTER", (timedelta(hours=2),))
    assert ensured() == "there already"
    assert delays() == [timedelta(hours=1)] * 2
    client.delete_automation(found.id)
    assert ensured() == "created"
