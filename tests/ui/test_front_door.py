"""The Prefect UI as somebody new to it uses it, in a headless browser, on a real stack with a market that fails.

With ``CLOSINGBELL_SCREENSHOTS=1`` the pictures that docs/ui.md shows are written anew, and the run is begun as a dry
one; else pictures go to a folder of the test's own.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.stack.test_stack import up, wait_until_up
from tests.unit.test_arrows import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.prefect, pytest.mark.soak, pytest.mark.timeout(600)]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH, HEIGHT = 1280, 800

#: Of a palette picture in docs/images, in bytes.
LARGEST = 150_000

#: Nothing of the browser's own goes out.
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

#: Whether to write the documentation's pictures.
PICTURES = bool(os.environ.get("CLOSINGBELL_SCREENSHOTS"))

#: Of the market's that the run has not.
SOME = ("AMZN", "GOOGL", "META", "TSLA", "JPM", "XOM", "JNJ", "WMT", "PG", "HD", "KO", "PEP", "BAC", "CVX")

Shoot = Callable[["Page", str], None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: the UI is not looked at")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new user's window, with time enough for a busy machine; it reaches loopback only."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, timezone_id="UTC", locale="en-US")
    context.route(lambda url: not url.startswith("http://127.0.0.1:"), lambda route: route.abort())
    opened = context.new_page()
    opened.set_default_timeout(120_000)
    yield opened
    context.close()


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    """Take a picture of a window."""
    folder = ROOT / "docs" / "images" if PICTURES else tmp_path

    def take(page: Page, name: str) -> None:
        from PIL import Image

        if PICTURES:
            page.wait_for_timeout(400)  # what slides in or fades out
        picture = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
        path = folder / f"ui-{name}.png"
        picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
        assert picture.size == (WIDTH, HEIGHT)
        assert path.stat().st_size <= LARGEST

    return take


@pytest.fixture
def stack(
    browser: Browser,
    tmp_path_factory: pytest.TempPathFactory,
    eventually: Any,
    processes_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """What ``closingbell up`` starts, with a market whose server fails for one ticker."""
    home = tmp_path_factory.mktemp("front-door")
    for name, value in {"RETRY_DELAY": "0", "MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    process = up(home)
    there = wait_until_up(home, process, eventually)
    fault = {"action": "status", "status": 503, "path": "/ticker/MSFT/"}
    httpx.post(f"{there.market_url}/_market/faults", json=fault, timeout=30).raise_for_status()
    yield there
    process.terminate()
    process.wait(timeout=60)
    eventually(lambda: not processes_of(home), 60)


def fill_in(page: Page, tickers: tuple[str, ...], start: str) -> None:
    """Give a form some tickers and a first date, as a person does."""
    add = page.get_by_role("button", name="Add item")
    for _ in tickers:
        add.click()
    boxes = page.locator("fieldset").filter(has=add).locator("textarea")
    for number, ticker in enumerate(tickers):
        boxes.nth(number).fill(ticker)
    page.get_by_label("Which days: start").click()
    page.get_by_label("Date (yyyy-MM-dd)").fill(start)
    page.keyboard.press("Escape")


def submit(page: Page) -> str:
    """Submit a form, and go to the run that it started; its id."""
    page.locator("button[type=submit]").click()
    page.get_by_role("link", name="View run").click()
    page.wait_for_url("**/runs/flow-run/*")
    return page.url.partition("?")[0].rpartition("/")[2]


def read_artifact(page: Page, key: str) -> None:
    """Open the newest artifact of a key from its run's page."""
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link").filter(has=page.get_by_text(key, exact=True)).click()
    page.locator("[data-testid^=timeline-card]").first.get_by_role("link").first.click()


def look_first(page: Page, shoot: Shoot) -> None:
    """See what a form's run would cost, and come back to the form by the link in its plan."""
    page.get_by_label("Look first: dry_run").click()
    page.mouse.move(WIDTH / 2, HEIGHT / 2)
    page.mouse.wheel(0, -5_000)
    shoot(page, "form")
    submit(page)
    page.get_by_text("Completed", exact=True).first.wait_for()
    read_artifact(page, "plan")
    page.get_by_role("heading", name="Dry run: ").wait_for()
    shoot(page, "plan")
    page.get_by_role("link", name="Start it for real").click()
    page.get_by_label("Which days: start").get_by_text("January 5th, 2026").wait_for()


def watch_progress(stack: Any, page: Page, shoot: Shoot) -> None:
    """Look at a run that takes its time, at one call a second."""
    limit = f"{stack.prefect_api_url}/v2/concurrency_limits/polygon-stocks-calls-per-second"
    httpx.patch(limit, json={"limit": 1}, timeout=30).raise_for_status()
    page.goto(stack.prefect_api_url.removesuffix("/api"))
    page.get_by_role("link", name="Deployments").click()
    page.get_by_role("link", name="manual", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    fill_in(page, SOME, "2026-01-05")
    of = {"artifacts": {"flow_run_id": {"any_": [submit(page)]}, "key": {"any_": ["progress"]}}}
    for _ in range(600):
        found = httpx.post(f"{stack.prefect_api_url}/artifacts/filter", json=of, timeout=30).json()
        if found and " to go:" in found[0]["description"]:
            break
        page.wait_for_timeout(200)
    page.goto(f"{stack.prefect_api_url.removesuffix('/api')}/v2/artifacts/artifact/{found[0]['id']}")
    page.get_by_text("to go:").first.wait_for()
    shoot(page, "progress")


def test_a_new_user_starts_a_run_watches_it_reads_it_and_retries_what_failed(
    stack: Any, page: Page, shoot: Shoot
) -> None:
    page.goto(stack.prefect_api_url.removesuffix("/api"))
    page.get_by_role("link", name="Deployments").click()
    page.get_by_role("link", name="manual", exact=True).wait_for()
    shoot(page, "deployments")
    page.get_by_role("link", name="manual", exact=True).click()
    page.get_by_role("tab", name="Description").click()
    page.get_by_text("Costs:").wait_for()
    shoot(page, "description")

    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    fill_in(page, ("AAPL", "MSFT", "NVDA"), "2026-01-05")
    if PICTURES:
        look_first(page, shoot)
    run_id = submit(page)
    page.get_by_text("Running", exact=True).or_(page.get_by_text("PartiallyCompleted", exact=True)).first.wait_for()
    page.get_by_text("PartiallyCompleted", exact=True).first.wait_for()
    shoot(page, "run")
    read_artifact(page, "report")
    page.get_by_role("heading", name="What failed, by cause").wait_for()
    shoot(page, "report")
    assert page.get_by_role("cell", name="MSFT", exact=True).count() == 1
    assert page.get_by_role("heading", name="PartiallyCompleted in").inner_text().endswith("cells failed")

    # What failed, once the vendor's server is well again.
    httpx.delete(f"{stack.market_url}/_market/faults", timeout=30).raise_for_status()
    httpx.delete(f"{stack.market_url}/_market/calls", timeout=30).raise_for_status()
    page.get_by_role("link", name="Ask again for what failed").click()
    field = page.get_by_label("Which run: run_id")
    field.wait_for()
    assert field.input_value() == run_id
    shoot(page, "retry")
    submit(page)
    page.get_by_text("Completed", exact=True).first.wait_for()
    read_artifact(page, "report")
    page.get_by_text("Every cell is accounted for.").first.wait_for()
    shoot(page, "retried")
    calls = [str(each["path"]) for each in httpx.get(f"{stack.market_url}/_market/calls", timeout=30).json()]
    assert len(calls) == 1
    assert calls[0].startswith("/v2/aggs/ticker/MSFT/")
    if PICTURES:
        watch_progress(stack, page, shoot)
