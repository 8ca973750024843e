"""The forms of the Prefect UI, as it makes them from what the flows say of their parameters."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from flows.form import grouped
from tests.unit.test_arrows import ROOT

DEPLOYMENTS: dict[str, dict[str, Any]] = {
    each["name"]: each for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
}
FORMS = sorted(name for name in DEPLOYMENTS if name != "bootstrap")


def flow_of(name: str) -> Flow[Any, Any]:
    module, _, function = DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    flow: Flow[Any, Any] = getattr(importlib.import_module(module), function)
    return flow


def schema(name: str) -> dict[str, Any]:
    """What ``prefect deploy`` sends."""
    return parameter_schema(flow_of(name)).model_dump_for_openapi()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_each_deployment_says_what_it_does_when_and_what_it_costs(name: str) -> None:
    described = DEPLOYMENTS[name]["description"]
    assert "**When:**" in described
    assert "**Costs:**" in described
    assert "closingbell" in DEPLOYMENTS[name]["tags"], "what the automations look at"


@pytest.mark.parametrize("name", FORMS)
def test_each_field_stands_in_a_group_with_its_help(name: str) -> None:
    said = schema(name)
    is_valid_schema(said)
    assert "required" not in said, "pressing Run is enough"
    fields = sorted(said["properties"].items(), key=lambda field: field[1]["position"])
    groups = [field["title"].removesuffix(f": {parameter}") for parameter, field in fields]
    assert all(field["title"] != parameter for parameter, field in fields), "it has a group"
    assert groups == sorted(groups, key=groups.index), "a group's fields stand together"
    for parameter, field in fields:
        assert field["description"].endswith("."), parameter
    assert {parameter for parameter, _ in fields} == inspect.signature(flow_of(name).fn).parameters.keys()
    flow_schema = flow_of(name).parameters.model_dump_for_openapi()
    assert flow_schema == said, "flow.serve() shows the same form"


@pytest.mark.parametrize("name", FORMS)
def test_an_optional_field_is_shown_and_may_be_left_empty(name: str) -> None:
    said = schema(name)
    for parameter, each in inspect.signature(flow_of(name).fn).parameters.items():
        field = said["properties"][parameter]
        if each.default is None and field.get("type"):
            assert "default" not in field, f"{parameter}: Prefect's server would refuse the null that is its default"
        if each.default is None:
            assert not validate({parameter: None}, said), f"{parameter}: a script may say null"
    assert not validate({}, said)
    assert not validate(DEPLOYMENTS[name]["parameters"], said)


def test_choices_dates_lists_and_bounds_are_what_they_are() -> None:
    fields = schema("manual")["properties"]
    assert fields["universe"]["enum"] == ["sp500+etfs", "sp500", "etfs"]
    assert (fields["start"]["type"], fields["start"]["format"]) == ("string", "date")
    assert (fields["tickers"]["type"], fields["tickers"]["items"]["type"]) == ("array", "string")
    assert fields["timeframes"]["items"]["enum"] == ["1d", "1h", "30m", "15m", "5m", "1m"]
    assert (fields["recheck_sessions"]["minimum"], fields["recheck_sessions"]["maximum"]) == (0, 250)
    assert (fields["batch_size"]["minimum"], fields["batch_size"]["maximum"]) == (1, 10_000)
    assert (fields["dry_run"]["type"], fields["dry_run"]["position"]) == ("boolean", 0)
    said = schema("manual")
    wrong: list[dict[str, Any]] = [
        {"start": "soon"},
        {"batch_size": 0},
        {"universe": "all"},
        {"timeframes": []},
        {"timeframes": ["2d"]},
        {"source": "yahoo"},
        {"recheck_sessions": 251},
    ]
    for parameters in wrong:
        assert validate(parameters, said), parameters


def test_a_parameter_without_a_group_is_noticed() -> None:
    with pytest.raises(TypeError, match="the groups of the form ingest are not its parameters"):
        grouped({"Look first": ["dry_run"]})(flow_of("manual"))
