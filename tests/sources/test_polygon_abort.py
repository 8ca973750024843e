"""A run that is cancelled waits for no vendor: calls on their way end at once, and none begins any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from faultserver import FaultServer, Step, head
from opengate import OpenGate
from polygon_bodies import FIRST, LAST

from closingbell.errors import ClosingbellError, RunEndingError
from closingbell.sources.polygon import PolygonSource

#: A server that takes a minute for the rest.
STALLS: dict[str, list[Step]] = {
    "head": [60.0],
    "body": [head(200, 1000), b'{"ticker":"AAPL",', 60.0],
}


@pytest.mark.parametrize("where", STALLS)
def test_a_call_on_its_way_ends_at_once(
    connect: Callable[..., PolygonSource], server: FaultServer, gate: OpenGate, where: str
) -> None:
    source = connect(read_timeout=120.0, call_timeout=120.0)
    server.reply(STALLS[where])
    errors: list[ClosingbellError] = []

    def call() -> None:
        try:
            source.fetch_range("AAPL", FIRST, LAST)
        except ClosingbellError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while not server.requests:
        threading.Event().wait(0.01)
    source.abort()
    caller.join(30)
    assert [type(error) for error in errors] == [RunEndingError]

    with pytest.raises(RunEndingError):
        source.fetch_range("AAPL", FIRST, LAST)
    assert (len(server.requests), source.calls) == (1, {"range": 1})
