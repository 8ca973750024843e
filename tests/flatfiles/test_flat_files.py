"""Flat files from a local S3 server over real HTTP: what is read, resumed, refused, and said of it."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from closingbell.bars import BAR
from closingbell.calendar import calendar_for
from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    MalformedResponseError,
    NotEntitledError,
    NotYetPublishedError,
    RetryableError,
    RunEndingError,
)
from closingbell.sources.flatfiles import FlatFiles
from infra.market.generated import Generated
from tests.flatfiles.conftest import DAYS, MINUTES, TICKERS
from tests.flatfiles.s3 import S3

DAY = date(2026, 3, 2)
KEY = MINUTES.format(DAY)
CANARIES = ("canary-key-7e1", "canary-secret-5d2/+")


class Gate:
    """Always open; remembers whose quota was used."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pauses: list[float | None] = []

    def of(self, asset_class: str) -> Gate:
        self.asked.append(asset_class)
        return self

    @contextmanager
    def call(self) -> Iterator[None]:
        yield

    def pause(self, seconds: float | None) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def connect(s3: S3, gate: Gate, tmp_path: Path) -> Iterator[Callable[..., FlatFiles]]:
    made: list[FlatFiles] = []

    def make(endpoint: str = s3.url) -> FlatFiles:
        made.append(FlatFiles(*CANARIES, gate, tmp_path, endpoint=endpoint, connect_timeout=1.0, read_timeout=5.0))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def source(connect: Callable[..., FlatFiles]) -> FlatFiles:
    return connect()


@pytest.fixture(scope="module")
def shared(_s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlatFiles]:
    """One for all that only refuse: to make a client takes a quarter of a second."""
    made = FlatFiles(*CANARIES, Gate(), tmp_path_factory.mktemp("shared"), endpoint=_s3.url)
    yield made
    made.close()


def test_a_days_minutes_are_those_of_the_ranges_without_vwap(
    source: FlatFiles, generated: Generated, s3: S3, gate: Gate
) -> None:
    wanted = ["SPY", "NA", "BRK.B", "NOBODY"]
    page = source.day(DAY, "1m", wanted)
    assert page.bars.tickers == ("BRK.B", "NA", "SPY")
    assert page.rows - page.ignored == len(page.bars) < page.rows
    for i, ticker in enumerate(page.bars.tickers):
        mine = page.bars.rows[page.bars.rows["ticker"] == i]
        its = generated.minutes(ticker, np.datetime64(DAY), np.datetime64(DAY)).rows
        assert np.isnan(mine["vwap"]).all()
        same = [name for name in BAR.names or () if name not in ("ticker", "vwap")]
        assert all(np.array_equal(mine[name], its[name]) for name in same)
    assert (len(s3.log), source.calls, gate.asked) == (1, {"flat_file": 1}, ["flatfiles"])


def test_a_daily_bar_opens_with_its_session(source: FlatFiles, generated: Generated) -> None:
    page = source.day(DAY, "1d", TICKERS)
    its = generated.days("AAPL", np.datetime64(DAY), np.datetime64(DAY)).rows
    (mine,) = page.bars.rows[page.bars.rows["ticker"] == page.bars.tickers.index("AAPL")]
    assert mine["ts"] == calendar_for("stocks").opens(np.datetime64(DAY))
    assert all(mine[name] == its[name][0] for name in ("open", "high", "low", "close", "volume", "trades", "session"))


def test_an_interrupted_download_goes_on_where_it_broke_off(
    connect: Callable[..., FlatFiles], s3: S3, files: dict[str, bytes], tmp_path: Path
) -> None:
    s3.cut_after = [10_000, 7_000]
    for _ in range(2):
        with pytest.raises(MalformedResponseError, match="cut off"):
            connect().day(DAY, "1m", TICKERS)  # another process would find as much
    page = connect().day(DAY, "1m", TICKERS)
    assert [asked.range for asked in s3.log] == [None, "bytes=10000-", "bytes=17000-"]
    assert sum(asked.sent for asked in s3.log) == len(files[KEY])
    assert page.rows == gzip.decompress(files[KEY]).count(b"\n") - 1
    told = json.loads((tmp_path / f"{KEY}.json").read_text())
    assert told["size"] == len(files[KEY])
    assert told["rows"] == page.rows
    assert len(told["sha256"]) == 64
    assert not (tmp_path / KEY).exists(), "what is read need not stay"


def test_what_came_in_full_is_not_fetched_once_more(source: FlatFiles, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("closingbell.sources.flatfiles.parse.bars_of", lambda *_: 1 / 0)  # killed before it was read
        with pytest.raises(ZeroDivisionError):
            source.day(DAY, "1m", TICKERS)
    assert source.day(DAY, "1m", TICKERS).rows
    assert len(s3.log) == 1


def test_an_object_replaced_in_between_begins_anew(source: FlatFiles, s3: S3, files: dict[str, bytes]) -> None:
    s3.cut_after = [10_000]
    with pytest.raises(MalformedResponseError):
        source.day(DAY, "1m", TICKERS)
    newer = gzip.compress(gzip.decompress(files[KEY])[:-1] + b"\n", 9)
    s3.put(KEY, newer)
    with pytest.raises(MalformedResponseError, match="was replaced"):
        source.day(DAY, "1m", TICKERS)
    assert source.day(DAY, "1m", TICKERS).rows
    assert [asked.status for asked in s3.log] == [200, 412, 200]


def broken(body: bytes, how: str) -> bytes:
    text = gzip.decompress(body)
    head, _, rest = text.partition(b"\n")
    lines = rest.splitlines()
    half = len(lines) // 2
    if how == "cut":
        return body[: len(body) // 2]
    if how == "no end":
        return body[:-4]
    if how == "a byte":
        return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 0x55]) + body[len(body) // 2 + 1 :]
    if how == "no gzip":
        return b"<html>please log in</html>"
    if how == "no lines":
        return gzip.compress(head + b"\n")
    if how == "header":
        return gzip.compress(text.replace(b"window_start", b"begin"))
    if how == "no header":
        return gzip.compress(rest)
    bad = {
        "short line": b",".join(lines[half].split(b",")[:-1]),
        "a word": lines[half].replace(b",", b",x", 1),
        "no time": b"AAPL,1,1,1,1,1,,1",
        "no ticker": b"," + lines[half].partition(b",")[2],
        "another day": lines[half].replace(lines[half].split(b",")[6], b"1772600000000000000"),
        "half a line": lines[half][:20],
        "a minute too often": b"\n".join([lines[half]] * 25_000),
    }[how]
    return gzip.compress(b"\n".join([head, *lines[:half], bad, *([] if how == "half a line" else lines[half:])]))


@pytest.mark.parametrize(
    "how",
    [
        *("cut", "no end", "a byte", "no gzip", "no lines", "header", "no header", "short line", "a word", "no time"),
        *("no ticker", "another day", "half a line", "a minute too often"),
    ],
)
def test_a_broken_object_is_refused_and_not_kept(shared: FlatFiles, s3: S3, files: dict[str, bytes], how: str) -> None:
    s3.put(KEY, broken(files[KEY], how))
    with pytest.raises(MalformedResponseError, match="the flat file"):
        shared.day(DAY, "1m", TICKERS)
    s3.put(KEY, files[KEY])
    assert shared.day(DAY, "1m", TICKERS).rows, "and the next call has the whole of what is there then"
    assert s3.log[-1].range is None


def test_bytes_that_are_not_those_of_the_etag_are_refused(source: FlatFiles, s3: S3, tmp_path: Path) -> None:
    s3.cut_after = [10_000]
    with pytest.raises(MalformedResponseError, match="cut off"):
        source.day(DAY, "1m", TICKERS)
    part = tmp_path / KEY
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(MalformedResponseError, match="not those of its ETag"):
        source.day(DAY, "1m", TICKERS)
    assert source.day(DAY, "1m", TICKERS).rows
    assert s3.log[-1].range is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", NotEntitledError),
        (404, "NoSuchKey", NotYetPublishedError),
        (403, "InvalidAccessKeyId", ConfigurationError),
        (403, "SignatureDoesNotMatch", ConfigurationError),
        (404, "NoSuchBucket", ConfigurationError),
        (500, "InternalError", RetryableError),
    ],
)
def test_refusals_are_typed_and_cost_one_request(
    shared: FlatFiles, s3: S3, status: int, code: str, kind: type[ClosingbellError]
) -> None:
    s3.refuse = [(status, code)]
    before = shared.calls.get("flat_file", 0)
    with pytest.raises(kind) as caught:
        shared.day(DAY, "1m", TICKERS)
    assert code in str(caught.value)
    assert len(s3.log) == shared.calls["flat_file"] - before == 1


def test_slow_down_pauses_the_gate(source: FlatFiles, s3: S3, gate: Gate) -> None:
    s3.refuse = [(503, "SlowDown")]
    with pytest.raises(RetryableError):
        source.day(DAY, "1m", TICKERS)
    assert (len(s3.log), gate.pauses) == (1, [None])


def test_a_day_that_has_no_object_is_not_published(source: FlatFiles) -> None:
    with pytest.raises(NotYetPublishedError, match="2026-03-07"):
        source.day(date(2026, 3, 7), "1m", TICKERS)


def test_nobody_there_is_retryable(connect: Callable[..., FlatFiles]) -> None:
    with pytest.raises(RetryableError, match="does not answer") as caught:
        connect("http://127.0.0.1:9").day(DAY, "1m", TICKERS)
    assert caught.value.status is None


def test_keys_are_in_no_text(connect: Callable[..., FlatFiles], s3: S3) -> None:
    source = connect()
    s3.refuse = [(403, "AccessDenied"), (400, CANARIES[1])]
    texts = [repr(source)]
    for _ in range(2):
        with pytest.raises(ClosingbellError) as caught:
            source.day(DAY, "1m", TICKERS)
        error = caught.value
        texts += [str(error), repr(error), repr(error.args), repr(error.__context__), repr(error.value)]
    assert not any(canary in text for canary in CANARIES for text in texts)
    for name, keys in (("KEY", ("two words", "s")), ("SECRET", ("k", "two words"))):
        with pytest.raises(ConfigurationError, match=f"FLATFILES_{name}") as refused:
            FlatFiles(*keys, Gate(), Path(), endpoint=s3.url)
        assert "two words" not in str(refused.value)


def test_a_request_may_take_so_long_in_all(s3: S3, gate: Gate, tmp_path: Path) -> None:
    s3.stall = threading.Event()
    source = FlatFiles(*CANARIES, gate, tmp_path, endpoint=s3.url, call_timeout=0.3)
    begun = time.monotonic()
    with pytest.raises(RetryableError, match="does not answer"):
        source.day(DAY, "1m", TICKERS)
    assert time.monotonic() - begun < 2.0
    s3.stall.set()
    source.close()


def test_abort_ends_a_request_on_its_way(source: FlatFiles, s3: S3) -> None:
    s3.stall = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            source.day(DAY, "1m", TICKERS)
        except BaseException as error:  # noqa: BLE001  (it is looked at)
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not s3.log:
        time.sleep(0.01)
    begun = time.monotonic()
    source.abort()
    asking.join()
    s3.stall.set()
    assert time.monotonic() - begun < 1.0
    assert isinstance(failed[0], RunEndingError)


def test_two_that_want_one_object_do_not_write_into_each_other(connect: Callable[..., FlatFiles]) -> None:
    source, pages = connect(), []
    both = [
        threading.Thread(target=lambda t=ticker: pages.append(source.day(DAY, "1m", [t]))) for ticker in ("AAPL", "SPY")
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert sorted(page.bars.tickers for page in pages) == [("AAPL",), ("SPY",)]


def test_other_timeframes_have_no_files(source: FlatFiles) -> None:
    with pytest.raises(ConfigurationError, match="timeframe: 5m"):
        source.day(DAY, "5m", TICKERS)


def test_daily_objects_are_where_the_vendor_has_them(source: FlatFiles, s3: S3) -> None:
    source.day(DAY, "1d", TICKERS)
    assert s3.log[0].path == f"/flatfiles/{DAYS.format(DAY)}"
