"""A running market, and a way to ask it that is not the vendor's client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from polygon import RESTClient

from infra.market.process import MarketProcess

#: A Monday evening: 2026-03-09 closed, and its bars are out.
NOW = "2026-03-10T02:00:00+00:00"

Get = Callable[..., httpx.Response]


@pytest.fixture(scope="session")
def market() -> Iterator[MarketProcess]:
    """A market that every test may read and none may change."""
    with MarketProcess(size=1_500, now=NOW) as running:
        yield running


@pytest.fixture(scope="session")
def own() -> Iterator[MarketProcess]:
    """A market to spoil: each test that does cleans up with the ``spoilt`` fixture."""
    with MarketProcess(size=600, now=NOW) as running:
        yield running


@pytest.fixture
def spoilt(own: MarketProcess) -> Iterator[MarketProcess]:
    """The market to spoil, with nothing wrong and nothing logged at first."""
    own.clear_faults()
    own.clear_calls()
    yield own
    own.clear_faults()


@pytest.fixture
def getter() -> Callable[..., Get]:
    """Makes a function that asks a market for a path, as some key."""
    return make_getter


@pytest.fixture
def now() -> str:
    """The instant at which the shared markets stand still."""
    return NOW


@pytest.fixture
def get(market: MarketProcess) -> Get:
    """Ask the shared market for a path."""
    return make_getter(market)


@pytest.fixture
def client(market: MarketProcess) -> RESTClient:
    """The vendor's own client, pointed at the shared market."""
    return RESTClient(api_key="a-key", base=market.url)


@pytest.fixture
def genuine() -> Path:
    """The folder of genuine response bodies."""
    root = os.environ.get("CLOSINGBELL_DATA")
    if not root:
        pytest.skip("CLOSINGBELL_DATA is not set: there are no genuine bodies to compare with")
    return Path(root) / "polygon"


def make_getter(market: MarketProcess, key: str | None = "a-key") -> Get:
    """A function that asks ``market`` for a path, as ``key``."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def ask(path: str, **kwargs: Any) -> httpx.Response:
        return _http().get(market.url + path, headers={**headers, **kwargs.pop("headers", {})}, **kwargs)

    return ask


@cache
def _http() -> httpx.Client:
    return httpx.Client(timeout=30)
