"""The page in a browser that has no network: all of it is seen, nothing is asked for, nothing in it acts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from closingbell.calendar import calendar_for
from closingbell.pictures.candles import _CANDLE, Candles
from closingbell.pictures.coverage import Coverage
from closingbell.pictures.nights import Night
from closingbell.pictures.page import Covered, page
from closingbell.pictures.states import CODES, STATES
from closingbell.store.pictured import Cause

if TYPE_CHECKING:
    from playwright.sync_api import Browser

AT = datetime(2026, 11, 22, 19, tzinfo=UTC)
SESSIONS = calendar_for("stocks").sessions(date(2026, 8, 3), date(2026, 11, 20))
HOSTILE = "<img src=http://127.0.0.1:9/x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@cache
def example() -> str:
    """A page with every state, and words of a vendor who means no good."""
    states = np.full((6, len(SESSIONS)), CODES["stored"], np.uint8)
    states[2, : len(STATES)] = np.arange(len(STATES))
    found = Coverage("polygon", "1d", ("AAPL", "BRK.B", HOSTILE, "MSFT", "SPY", "X"), SESSIONS, states, AT)
    span = SESSIONS[0].item(), SESSIONS[9].item()
    rows = np.zeros(40, _CANDLE)
    rows["session"] = SESSIONS[:40]
    rows["ts"] = calendar_for("stocks").opens(rows["session"])
    for name, value in (("open", 10), ("high", 12), ("low", 9), ("close", 11), ("volume", 1e6)):
        rows[name] = value
    failures = {HOSTILE: {"cells": 1, "tickers": [HOSTILE]}}
    night = Night(date(2026, 11, 20), 1, (HOSTILE,), 5, 0, 1, failures, 2, 3, 4.5, ("closingbell retry all",))
    totals = {"bars": [("polygon", "1d", 12)], **dict.fromkeys(("gap", "quarantine", "revision", "split"), 1)}
    totals |= dict.fromkeys(("dividend", "event", "run"), 1)
    chart = Candles(HOSTILE, "1d", True, ("polygon",), rows, (), (), (), AT)
    return page(
        [Covered(found, [Cause("failed", HOSTILE, f"{HOSTILE}: more", 1, 1, (HOSTILE,), *span)])],
        [night],
        [chart],
        totals,
        AT,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed to open the page with")
    quiet = ("background-networking", "component-update", "sync", "quic", "gpu")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=arguments, timeout=120_000)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_whole_without_a_network(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    path = tmp_path / "page.html"
    path.write_text(example(), encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    shown = context.new_page()
    shown.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    asked: list[str] = []
    said: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: said.append(message.text))
    shown.goto(path.as_uri(), timeout=120_000)
    pictures = shown.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.alt.length])")
    assert len(pictures) == 3
    assert all(complete and wide > 500 and described > 40 for complete, wide, described in pictures)
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert said == [], "the browser has nothing to refuse"
    assert shown.title() == "closingbell, 2026-11-22 19:00 UTC", "nothing has run"
    assert shown.evaluate("document.documentElement.scrollWidth") <= width, "tables scroll, the page does not"
    ink, paper = (shown.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    lightness = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ink, paper)]
    assert (lightness[0] > lightness[1]) == (scheme == "dark")
    assert abs(lightness[0] - lightness[1]) > 450
    context.close()
