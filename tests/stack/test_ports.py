"""Two homes on one machine: a port that another one's Prefect server took first is not worked with by mistake."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from prefect.client.orchestration import get_client

from closingbell.settings import load
from deployments import prefect_server, register
from deployments.prefect_server import PrefectServer, is_of
from deployments.stack import Stack

pytestmark = pytest.mark.prefect


def test_whose_server_answers(prefect_server: PrefectServer, prefect_api: str, tmp_path: Path) -> None:
    assert is_of(prefect_api, Path(os.environ["PREFECT_HOME"]).parent)
    assert not is_of(prefect_api, tmp_path)
    assert not is_of("http://127.0.0.1:1/api", tmp_path)


def test_nothing_is_registered_at_another_home_s_server(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with get_client(sync_client=True) as client:
        before = {pool.name for pool in client.read_work_pools()}, len(client.read_deployments())
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
        monkeypatch.setattr(register.wait_until_healthy, "__defaults__", (0.2, None))
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(register.main, ["--local", "once"])
        assert done.exit_code == 2
        assert f"the Prefect server of this home does not answer: {prefect_api}, {tmp_path}" in done.output
        assert ({pool.name for pool in client.read_work_pools()}, len(client.read_deployments())) == before


@pytest.mark.soak
def test_who_loses_the_race_for_a_port_goes_to_another_one_with_all_that_belongs_to_it(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, free = urlsplit(prefect_api).port, prefect_server._free_port
    ports = iter([taken])
    monkeypatch.setattr(prefect_server, "_free_port", lambda: next(ports, None) or free())
    monkeypatch.delenv("PREFECT_API_URL")
    settings = load(closingbell_home=tmp_path, market_size=50)
    with Stack(settings) as stack:
        assert stack.api_url != prefect_api
        assert is_of(stack.api_url, tmp_path)
        assert os.environ["PREFECT_API_URL"] == stack.api_url
        with get_client(sync_client=True) as client:
            assert "closingbell" in {pool.name for pool in client.read_work_pools()}
            assert "nightly" in {each.name for each in client.read_deployments()}
    assert os.environ.get("PREFECT_API_URL") is None
