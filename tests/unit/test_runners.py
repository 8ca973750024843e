"""Who makes the calls: what a person chooses, and what is said where it cannot be."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from closingbell.errors import ConfigurationError
from closingbell.settings import SECRETS, load
from tasks import cluster
from tasks.batch import Work
from tasks.outpost import shared_settings
from tasks.resources import Resources
from tasks.runners import chosen, fetching


@pytest.mark.parametrize(
    ("choice", "runs_on"),
    [
        ((None, None, None), ("dask", "tcp://set:8786", 2)),
        (("threads", None, None), ("threads", "tcp://set:8786", 2)),
        (("dask", None, None), ("dask", "tcp://set:8786", 2)),
        ((None, "tcp://other:8786", None), ("dask", "tcp://other:8786", 2)),
        ((None, None, 3), ("dask", "", 3)),
    ],
)
def test_a_choice_for_one_run_wins_over_the_settings(
    choice: tuple[Any, Any, Any], runs_on: tuple[str, str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASK_RUNNER", "dask")
    monkeypatch.setenv("DASK_ADDRESS", "tcp://set:8786")
    settings = chosen(*choice)(load())
    assert (settings.task_runner, settings.dask_address, settings.dask_workers) == runs_on


def test_without_dask_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tasks.cluster", None)
    resources = SimpleNamespace(settings=load(task_runner="dask"))
    with pytest.raises(ConfigurationError, match=r"Dask is not installed.*closingbell\[dask\]"):
        fetching(cast(Work, None), {"stocks": [cast(Any, "a batch")]}, cast(Resources, resources))


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.2)
    settings = load(task_runner="dask", dask_address="tcp://127.0.0.1:1")
    with (
        cluster._runner(settings, {}) as runner,
        pytest.raises(ConfigurationError, match=r"scheduler does not answer: tcp://127\.0\.0\.1:1\. Start it"),
    ):
        cluster._connected(runner, settings)


def test_what_workers_are_told_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = {name: f"canary-{name}" for name in SECRETS}
    for name, value in canaries.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setenv("POLYGON_BASE_URL", "https://me:canary-in-url@vendor.test")
    monkeypatch.setenv("POLYGON_CALLS_PER_MINUTE", "7/s")
    told = shared_settings(load())
    assert "canary" not in repr(told)
    assert told["polygon_calls_per_minute"] == "7/s", "all processes take their slots of one limit"
    assert "closingbell_home" not in told
