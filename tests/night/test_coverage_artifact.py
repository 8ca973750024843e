"""The coverage picture that a run leaves in Prefect: of what it was asked for, small, and never worth a night."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from datetime import UTC, date, datetime

import numpy as np
import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from closingbell.calendar import calendar_for
from closingbell.pictures.coverage import Coverage
from closingbell.pictures.states import CODES, STATES
from tasks import pictures
from tests.night.conftest import Nights

pytestmark = pytest.mark.prefect


def artifacts(run_id: str) -> dict[str, str]:
    """The texts of a run's artifacts, by key."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=of_run)
    return {str(artifact.key): str(artifact.data) for artifact in found}


def test_a_run_shows_what_became_of_its_cells(nights: Nights) -> None:
    told = nights.ingest(tickers=["AAPL", "MSFT", "NOBODY"], start=date(2026, 2, 2))

    text = artifacts(told["run_id"])["coverage"]
    assert told["gaps"], "there is something to see"
    counted = {
        name: int(count.replace(",", "")) for count, name in re.findall(r"^- ([\d,]+) (.+)$", text, re.MULTILINE)
    }
    assert counted == {"stored": told["stored_cells"], **told["gaps"]}
    assert "Coverage of 3 tickers, 1d, 2026-02-02 to 2026-03-06" in text
    assert len(text) < 100_000
    (data,) = re.findall(r"!\[[^\]]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", text)
    image = Image.open(io.BytesIO(b64decode(data))).convert("RGB")
    colours = {colour for _, colour in image.getcolors(100_000) or []}
    assert {STATES[CODES[name]].colour for name in counted} <= colours


def test_a_run_that_had_to_stop_shows_it_too(nights: Nights) -> None:
    nights.market.fault("status", status=401, path="/range/")
    told = nights.ingest(tickers=["AAPL", "MSFT"], start=date(2026, 2, 2), recheck_sessions=0)
    assert (told["state"], told["stored_cells"]) == ("Failed", 0)
    assert "- 48 pending" in artifacts(told["run_id"])["coverage"]


def test_a_picture_of_noise_is_made_smaller_until_it_fits() -> None:
    days = calendar_for("stocks").sessions(date(2025, 1, 2), date(2026, 11, 20))
    states = np.random.default_rng(1).integers(1, len(STATES), (900, len(days))).astype(np.uint8)
    names = tuple(f"[T{i}](x)" for i in range(900))
    found = Coverage("polygon", "1d", names, days, states, datetime(2026, 11, 22, tzinfo=UTC), verified=False)
    text = pictures._image(found, 12_000)
    (data,) = re.findall(r"^!\[[^\]]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)$", text)
    assert len(b64decode(data)) <= 12_000
    assert Image.open(io.BytesIO(b64decode(data))).width >= 600, "with its title and its legend"


def test_a_run_goes_on_without_its_picture(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise MemoryError("no room to draw")

    monkeypatch.setattr(pictures, "coverage", broken)
    told = nights.ingest(tickers=["AAPL"], start=date(2026, 2, 2))
    assert told["state_name"] == "Completed"
    assert "coverage" not in artifacts(told["run_id"])
