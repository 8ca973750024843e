from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from faultserver import FaultServer
from opengate import CANARY, OpenGate

from closingbell.sources.polygon import PolygonSource


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def gate() -> OpenGate:
    return OpenGate()


@pytest.fixture
def connect(server: FaultServer, gate: OpenGate) -> Iterator[Callable[..., PolygonSource]]:
    """Makes sources whose limits no busy machine reaches; keyword arguments override, for whoever wants one reached."""
    made: list[PolygonSource] = []

    def make(base_url: str = server.url, **limits: float) -> PolygonSource:
        short = {"connect_timeout": 10.0, "read_timeout": 10.0, "call_timeout": 20.0, **limits}
        made.append(PolygonSource(CANARY, base_url, gate, **short))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture
def source(connect: Callable[..., PolygonSource]) -> PolygonSource:
    return connect()
