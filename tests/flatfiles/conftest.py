"""A local S3 server with flat files of the generated market."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest

from infra.market.flatfiles import day_files, minute_files
from infra.market.generated import Generated
from tests.flatfiles.s3 import S3

FIRST, LAST = date(2026, 3, 2), date(2026, 3, 4)
TICKERS = ("AAPL", "BRK.B", "MSFT", "NA", "NVDA", "PEBpE", "SPY", "T")
MINUTES = "us_stocks_sip/minute_aggs_v1/2026/03/{}.csv.gz"
DAYS = "us_stocks_sip/day_aggs_v1/2026/03/{}.csv.gz"


@pytest.fixture(scope="session")
def generated() -> Generated:
    return Generated(1_500, 1792)


@pytest.fixture(scope="session")
def files(generated: Generated) -> dict[str, bytes]:
    """Objects by their keys."""
    found = {MINUTES.format(day): body for day, body in minute_files(generated, TICKERS, FIRST, LAST).items()}
    return found | {DAYS.format(day): body for day, body in day_files(generated, TICKERS, FIRST, LAST).items()}


@pytest.fixture(scope="session")
def _s3() -> Iterator[S3]:
    with S3() as running:
        yield running


@pytest.fixture
def s3(_s3: S3, files: dict[str, bytes]) -> S3:
    """The server, with all objects as they should be and nothing in its log."""
    for key, body in files.items():
        if _s3.objects.get(key) is not body:
            _s3.put(key, body)
    _s3.clear()
    return _s3
