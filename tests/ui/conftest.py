"""Deployments of ours on the shared Prefect server, and runs of them in this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.flow_engine import run_flow

from deployments.automations import TAG
from tests.night.conftest import nights  # noqa: F401  (a fixture)
from tests.stack.conftest import eventually, processes_of  # noqa: F401  (fixtures)


@dataclass
class Deployed:
    """Flows that are deployed on the server, by the names that they have in prefect.yaml."""

    client: SyncPrefectClient
    ids: dict[str, UUID]

    def run(self, name: str, flow: Flow[Any, Any], **parameters: Any) -> tuple[FlowRun, State[Any]]:
        """Run a deployment as a worker does, in this process; its run and how it ended."""
        made = self.client.create_flow_run_from_deployment(self.ids[name], parameters=parameters)
        state: Any = run_flow(flow, flow_run=made, return_type="state", parameters=parameters)
        return self.client.read_flow_run(made.id), state

    def artifacts(self, run_id: UUID) -> dict[str, Artifact]:
        """A run's artifacts by key."""
        of = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run_id]}})
        return {str(one.key): one for one in self.client.read_artifacts(artifact_filter=of)}


@pytest.fixture
def deployed(prefect_api: str) -> Iterator[Deployed]:
    """The nightly run and the retry, without a schedule and without a worker."""
    from flows.ingest import ingest
    from flows.retry_failed import retry_failed

    with get_client(sync_client=True) as client:
        ids = {
            name: client.create_deployment(
                client.create_flow_from_name(flow.name),
                name,
                tags=[TAG],
                parameter_openapi_schema=flow.parameters.model_dump_for_openapi(),
                enforce_parameter_schema=True,
            )
            for name, flow in (("nightly", ingest), ("retry", retry_failed))
        }
        yield Deployed(client, ids)
        for made in ids.values():
            client.delete_deployment(made)


@pytest.fixture
def received() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address on loopback, and what is posted there."""
    said: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", said
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def soon() -> Callable[[Callable[[], Any]], Any]:
    """Wait for something that the server does by itself; returns it."""

    def wait(look: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s"
            time.sleep(0.1)
        return found

    return wait
