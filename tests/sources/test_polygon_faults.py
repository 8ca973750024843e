"""Every fault of the vendor and of the network becomes one typed error, after one attempt, without the key."""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import random
import socket
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from time import time

import pytest
from faultserver import Close, FaultServer, Reset, Step, answer, head, zipped
from opengate import CANARY, OpenGate
from polygon_bodies import FIRST, LAST, series

from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    MalformedResponseError,
    NotEntitledError,
    NotYetPublishedError,
    RetryableError,
    UnexpectedError,
    UnknownTickerError,
)
from closingbell.sources.polygon import PolygonSource

NGINX = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


@dataclass(frozen=True)
class Fault:
    name: str
    reply: list[Step]
    error: type[ClosingbellError]
    what: str


def said(status: int, error: str, **headers: str) -> list[Step]:
    """An error as the vendor words it; here it even quotes the key back."""
    return answer({"status": "ERROR", "error": f"{error} ({CANARY})"}, status, headers)


def denied(message: str) -> list[Step]:
    return answer({"status": "NOT_AUTHORIZED", "request_id": CANARY, "message": f"{message} {CANARY}"}, 403)


def drip(first: bytes) -> list[Step]:
    return [first] + [step for _ in range(40) for step in (b"a", 0.1)]


QUOTA = "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue."
# Python 3.14 lets a decoder go as deep as the thread's stack is large; before, 1,000 levels were too deep.
DEEP = b'{"status":"OK","x":' + b"[" * 1_000_000
BODY = series()
HALF = [head(200, 1000), b'{"ticker":"AAPL",']

FAULTS = [
    Fault("401", said(401, "Unknown API Key"), ConfigurationError, "the vendor refuses the key"),
    Fault("401-no-key", said(401, "API Key was not provided"), ConfigurationError, "the vendor refuses the key"),
    Fault("401-empty", answer(b"", 401), ConfigurationError, "the vendor refuses the key"),
    Fault(
        "403-not-entitled",
        denied("You are not entitled to this data. Please upgrade your plan at https://polygon.io/pricing"),
        NotEntitledError,
        "the plan does not include this data",
    ),
    Fault(
        "403-timeframe",
        denied("Your plan doesn't include this data timeframe. Please upgrade your plan"),
        NotEntitledError,
        "the plan does not reach these dates",
    ),
    Fault(
        "403-today",
        denied("Attempted to request today's data before end of day. Please upgrade your plan"),
        NotYetPublishedError,
        "the vendor has not published this day yet",
    ),
    Fault("403-html", answer(NGINX, 403), RetryableError, "something in front of the vendor refuses the call"),
    Fault(
        "404-ticker",
        answer({"status": "NOT_FOUND", "message": "Ticker not found."}, 404),
        UnknownTickerError,
        "the vendor knows no such ticker",
    ),
    Fault("404-html", answer(NGINX, 404), RetryableError, "the address does not serve this call"),
    Fault("400", said(400, "bad parameter"), RetryableError, "the vendor does not accept the call"),
    Fault("429", said(429, QUOTA), RetryableError, "the vendor's quota is exceeded"),
    Fault("429-empty", answer(b"", 429), RetryableError, "the vendor's quota is exceeded"),
    Fault("500-json", said(500, "internal"), RetryableError, "the vendor's server failed"),
    Fault("502-html", answer(NGINX, 502), RetryableError, "the vendor's server failed"),
    Fault("503-empty", answer(b"", 503), RetryableError, "the vendor's server failed"),
    Fault("504-cut", [head(504, 500), b"<html", Close], RetryableError, "the vendor's server failed"),
    Fault(
        "302",
        answer(b"", 302, {"Location": "http://127.0.0.1:9/elsewhere"}),
        RetryableError,
        "the vendor redirects the call elsewhere",
    ),
    Fault(
        "301",
        answer(b"", 301, {"Location": f"https://api.example.com/?k={CANARY}"}),
        ConfigurationError,
        "the vendor's address has moved",
    ),
    Fault(
        "301-nowhere",
        answer(b"", 301, {"Location": f'https://{CANARY}"%&/'}),
        ConfigurationError,
        "the vendor's address has moved",
    ),
    Fault("204", answer(b"", 204), RetryableError, "the vendor does not accept the call"),
    Fault("reset-at-once", [Reset], RetryableError, "the connection to the vendor broke off"),
    Fault("closed-at-once", [Close], RetryableError, "the connection to the vendor broke off"),
    Fault(
        "not-http", [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Close], RetryableError, "the connection to the vendor broke off"
    ),
    Fault(
        "reset-in-head",
        [b"HTTP/1.1 200 OK\r\nContent-", Reset],
        RetryableError,
        "the connection to the vendor broke off",
    ),
    Fault("reset-in-body", [*HALF, 0.1, Reset], RetryableError, "the connection to the vendor broke off"),
    Fault("closed-in-body", [*HALF, Close], RetryableError, "the connection to the vendor broke off"),
    Fault(
        "broken-chunk",
        [head(200, None, {"Transfer-Encoding": "chunked"}), b'5\r\n{"tic\r\nzz\r\n', Close],
        RetryableError,
        "the connection to the vendor broke off",
    ),
    Fault("stalled-head", [b"HTTP/1.1 200 OK\r\n", 2.0], RetryableError, "the vendor did not answer in time"),
    Fault("no-answer", [2.0], RetryableError, "the vendor did not answer in time"),
    Fault("stalled-body", [*HALF, 2.0], RetryableError, "the vendor did not answer in time"),
    Fault("dripping-head", drip(b"HTTP/1.1 200 OK\r\nX-A: "), RetryableError, "the vendor did not answer in time"),
    Fault("dripping-body", drip(head(200, 1000)), RetryableError, "the vendor did not answer in time"),
    Fault("dripping-unsized-body", drip(head(200, None)), RetryableError, "the vendor did not answer in time"),
    Fault("unsized-body-cut", [head(200, None), b'{"status":"OK",', Close], MalformedResponseError, "not valid JSON"),
    Fault("gzip-cut", zipped(BODY, cut=90), MalformedResponseError, "the answer's gzip stream is broken"),
    Fault("gzip-no-checksum", zipped(BODY, cut=-8), MalformedResponseError, "the answer's gzip stream is broken"),
    Fault(
        "gzip-garbage",
        answer(b"not gzip at all", headers={"Content-Encoding": "gzip"}),
        MalformedResponseError,
        "the answer's gzip stream is broken",
    ),
    Fault(
        "gzip-and-more",
        answer(gzip.compress(b'{"status":"OK"}') + b"more", headers={"Content-Encoding": "gzip"}),
        MalformedResponseError,
        "the answer's gzip stream is broken",
    ),
    Fault("gzip-unsaid", answer(gzip.compress(b"{}")), MalformedResponseError, "the answer is not valid JSON"),
    Fault("brotli", answer(b"x", headers={"Content-Encoding": "br"}), MalformedResponseError, "not asked for"),
    Fault("deflate", answer(b"x", headers={"Content-Encoding": "deflate"}), MalformedResponseError, "not asked for"),
    Fault("html", answer(NGINX), MalformedResponseError, "the answer is not valid JSON"),
    Fault("empty", answer(b""), MalformedResponseError, "the answer is not valid JSON"),
    Fault("not-utf8", answer(b'{"status":"O\xff"}'), MalformedResponseError, "the answer is not valid JSON"),
    Fault("json-cut", answer(b'{"status":"OK","resul'), MalformedResponseError, "the answer is not valid JSON"),
    Fault("json-and-more", answer(b'{"status":"OK"}{}'), MalformedResponseError, "the answer is not valid JSON"),
    Fault("array", answer([]), MalformedResponseError, "a field of the wrong type"),
    Fault("utf-16", answer('{"status":"OK"}'.encode("utf-16")), MalformedResponseError, "not valid JSON"),
    Fault("nan", answer(b'{"status":"OK","x":NaN}'), MalformedResponseError, "not valid JSON"),
    Fault("infinity", answer(b'{"status":"OK","x":-Infinity}'), MalformedResponseError, "not valid JSON"),
    Fault("deep", answer(DEEP), MalformedResponseError, "the answer is nested too deep"),
    Fault("deep-500", answer(DEEP[:60_000], 500), RetryableError, "the vendor's server failed"),
    Fault(
        "results-twice",
        answer(b'{"status":"OK","results":null,"results":null}'),
        MalformedResponseError,
        "more than one list of results",
    ),
    Fault(
        "length-below-zero",
        [b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}", Close],
        MalformedResponseError,
        "the answer's status is not OK",
    ),
    Fault(
        "two-lengths",
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", Close],
        RetryableError,
        "the connection to the vendor broke off",
    ),
    Fault(
        "headers-without-end",
        [b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 5_000, Close],
        RetryableError,
        "the connection to the vendor broke off",
    ),
    Fault(
        "header-of-1MB",
        [b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1_000_000 + b"\r\n\r\n", Close],
        RetryableError,
        "the connection to the vendor broke off",
    ),
    Fault("garbage-10MB", answer(b"\x00\xffgarbage" * 1_200_000), MalformedResponseError, "not valid JSON"),
    Fault("status-ERROR", said(200, "Unknown API Key"), MalformedResponseError, "the answer's status is not OK"),
    Fault("ticker-is-key", answer(series(CANARY)), MalformedResponseError, "the answer is of another ticker"),
]


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert CANARY not in caplog.text


def texts_of(error: BaseException | None) -> str:
    """Everything that a log or a report could show of an error, its chain included."""
    seen: list[str] = []
    while error is not None:
        seen += [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_typed_error_after_one_attempt(
    fault: Fault,
    server: FaultServer,
    connect: Callable[..., PolygonSource],
    gate: OpenGate,
    logs: pytest.LogCaptureFixture,
) -> None:
    source = patient(connect, fault)
    server.reply(fault.reply)
    started = time()
    with pytest.raises(ClosingbellError) as caught:
        source.fetch_range("AAPL", FIRST, LAST)
    assert time() - started < 3, "not after all the drops of an answer, which take four"
    assert type(caught.value) is fault.error
    assert fault.what in caught.value.what
    assert "AAPL" not in caught.value.what, "reports group by it"
    assert "AAPL" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert CANARY not in texts_of(caught.value)
    assert (len(server.requests), gate.calls, gate.inside, source.calls) == (1, 1, 0, {"range": 1})


def patient(connect: Callable[..., PolygonSource], fault: Fault) -> PolygonSource:
    """Only what waits for a timeout gets a short one: the others have to be read on a busy machine too."""
    return connect(read_timeout=0.15, call_timeout=0.3) if "in time" in fault.what else connect()


ASKS: dict[str, Callable[[PolygonSource], object]] = {
    "market_day": lambda source: source.market_day(FIRST),
    "splits": lambda source: source.splits(FIRST),
    "dividends": lambda source: source.dividends(FIRST),
    "events": lambda source: source.identity("AAPL"),
}


@pytest.mark.parametrize("kind", ASKS)
@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f.name not in ("404-ticker", "ticker-is-key")], ids=lambda fault: fault.name
)
def test_every_kind_of_call_fails_alike(
    fault: Fault,
    kind: str,
    server: FaultServer,
    connect: Callable[..., PolygonSource],
    gate: OpenGate,
    logs: pytest.LogCaptureFixture,
) -> None:
    source = patient(connect, fault)
    server.reply(fault.reply)
    with pytest.raises(ClosingbellError) as caught:
        ASKS[kind](source)
    assert type(caught.value) is fault.error
    assert fault.what in caught.value.what
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert CANARY not in texts_of(caught.value)
    assert (len(server.requests), gate.calls, gate.inside, source.calls) == (1, 1, 0, {kind: 1})


@pytest.mark.parametrize("kind", ["market_day", "splits", "dividends"])
def test_where_no_ticker_is_in_the_path_none_is_unknown(kind: str, server: FaultServer, source: PolygonSource) -> None:
    server.reply(answer({"status": "NOT_FOUND", "message": "Not found."}, 404))
    with pytest.raises(RetryableError, match="does not serve this call"):
        ASKS[kind](source)


def test_refused(
    server: FaultServer, connect: Callable[..., PolygonSource], gate: OpenGate, logs: pytest.LogCaptureFixture
) -> None:
    server.__exit__()
    with pytest.raises(RetryableError, match=r"no connection to the vendor.*refused.*Check the network") as caught:
        connect().fetch_range("AAPL", FIRST, LAST)
    assert gate.calls == 1, "an attempt that may have reached the vendor counts"
    assert CANARY not in texts_of(caught.value)


def test_name_that_cannot_be_resolved(connect: Callable[..., PolygonSource], logs: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RetryableError, match="address cannot be resolved") as caught:
        connect("http://closingbell.invalid").fetch_range("AAPL", FIRST, LAST)
    assert CANARY not in texts_of(caught.value)


def test_plain_http_where_tls_is_expected(connect: Callable[..., PolygonSource]) -> None:
    class Plain(FaultServer):
        def wrap(self, connection: socket.socket) -> socket.socket:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return connection

    with Plain() as plain, pytest.raises(RetryableError, match="no secure connection") as caught:
        connect(plain.url.replace("http", "https")).fetch_range("AAPL", FIRST, LAST)
    assert plain.connections == 1
    assert CANARY not in texts_of(caught.value)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("7200", 3600.0),
        ("999999999", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
    ],
)
def test_a_429_pauses_every_caller(
    header: str | None, expected: float | None, server: FaultServer, source: PolygonSource, gate: OpenGate
) -> None:
    server.reply(answer(b"", 429, {} if header is None else {"Retry-After": header}))
    with pytest.raises(RetryableError) as caught:
        source.fetch_range("AAPL", FIRST, LAST)
    assert (caught.value.status, caught.value.retry_after) == (429, expected)
    assert gate.pauses == [expected]


def test_retry_after_may_be_a_date(server: FaultServer, source: PolygonSource, gate: OpenGate) -> None:
    server.reply(answer(b"", 429, {"Retry-After": formatdate(time() + 30, usegmt=True)}))
    with pytest.raises(RetryableError):
        source.fetch_range("AAPL", FIRST, LAST)
    assert 28 <= (gate.pauses[0] or 0.0) <= 30


def test_a_date_counts_from_the_vendors_own_clock(server: FaultServer, source: PolygonSource, gate: OpenGate) -> None:
    noon = 1_700_000_000
    told = {"Date": formatdate(noon, usegmt=True), "Retry-After": formatdate(noon + 12, usegmt=True)}
    server.reply(answer(b"", 429, told))
    with pytest.raises(RetryableError):
        source.fetch_range("AAPL", FIRST, LAST)
    assert gate.pauses == [12.0]


def test_only_a_429_pauses_others(server: FaultServer, source: PolygonSource, gate: OpenGate) -> None:
    server.reply(answer(b"", 503, {"Retry-After": "9"}))
    with pytest.raises(RetryableError) as caught:
        source.fetch_range("AAPL", FIRST, LAST)
    assert caught.value.retry_after == 9
    assert gate.pauses == []


def test_a_body_over_the_limit(server: FaultServer, connect: Callable[..., PolygonSource]) -> None:
    small = connect(max_bytes=100_000)
    for reply in (answer(b"x" * 10_000_000), zipped(b" " * 10_000_000)):
        server.reply(reply)
        with pytest.raises(MalformedResponseError, match=r"larger than any page.*over 100,000 bytes"):
            small.fetch_range("AAPL", FIRST, LAST)


def test_an_endless_body_and_a_gzip_bomb_take_no_memory(
    server: FaultServer, connect: Callable[..., PolygonSource]
) -> None:
    small = connect(max_bytes=1_000_000, read_timeout=10, call_timeout=60)
    bomb = zipped(b" " * 50_000_000)
    gone = threading.Event()

    def endless(_: object) -> Iterator[Step]:
        try:
            yield head(200, None)
            yield from itertools.repeat(b"x" * 65_536)
        finally:
            gone.set()

    for reply in (endless, lambda _: bomb):
        server.requests.clear()
        server.reply(reply)
        tracemalloc.start()
        with pytest.raises(MalformedResponseError, match="larger than any page"):
            small.fetch_range("AAPL", FIRST, LAST)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000
    assert gone.wait(10), "the connection is closed, not left to send on"


def test_a_connection_that_is_never_made_ends_in_time(connect: Callable[..., PolygonSource], gate: OpenGate) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # the queue is full after the first: who comes later gets no answer at all
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(RetryableError, match=r"did not answer in time.*connecting"):
            connect(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.2).fetch_range("AAPL", FIRST, LAST)
        for one in waiting:
            one.close()
    assert (gate.calls, gate.inside) == (1, 0)


def test_a_tls_handshake_obeys_the_deadline(connect: Callable[..., PolygonSource]) -> None:
    over = threading.Event()

    class Slow(FaultServer):
        def wrap(self, connection: socket.socket) -> socket.socket:
            # A record of the handshake that is long enough to go on for minutes, a byte at a time.
            connection.sendall(b"\x16\x03\x03\x3f\xff\x02")
            while not over.wait(0.02):
                connection.sendall(b"\x00")
            return connection

    limits = {"connect_timeout": 5.0, "read_timeout": 5.0, "call_timeout": 0.3}
    with Slow() as slow, pytest.raises(RetryableError, match=r"in time.*not complete after 0\.3 s"):
        connect(slow.url.replace("http", "https"), **limits).fetch_range("AAPL", FIRST, LAST)
    over.set()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, server: FaultServer, source: PolygonSource) -> None:
    with FaultServer() as elsewhere:
        elsewhere.json(BODY)
        server.reply(answer(b"", status, {"Location": f"{elsewhere.url}/v2/aggs"}))
        with pytest.raises(ClosingbellError):
            source.fetch_range("AAPL", FIRST, LAST)
    assert (elsewhere.connections, len(server.requests)) == (0, 1)


def test_a_bug_in_what_we_build_on_takes_no_key_along(
    server: FaultServer, connect: Callable[..., PolygonSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console
    from rich.traceback import Traceback

    def buggy(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError(f"{arguments} {named}")

    monkeypatch.setattr("urllib3.connection.HTTPConnection.request", buggy)
    with pytest.raises(UnexpectedError, match=r"ZeroDivisionError at test_polygon_faults.py:\d+") as caught:
        connect().fetch_range("AAPL", FIRST, LAST)
    trace = Traceback.from_exception(caught.type, caught.value, caught.tb, show_locals=True, locals_max_string=None)
    page = io.StringIO()
    Console(file=page, width=400).print(trace)
    assert "Authorization" in page.getvalue(), "the headers of the vendor's client"
    assert CANARY not in page.getvalue()


def test_what_the_vendor_says_stays_on_its_line(server: FaultServer, source: PolygonSource) -> None:
    server.reply(
        answer({"status": "ERROR", "error": "no\x1b[2J\u202e\x00\nERROR forged\r\x9b31m"}, 400),
        answer(series(status="O\x1b[2JK", error="a\nforged line")),
        answer(series("AAPL\x1b[2J\n")),
        answer(series(next_url="http://x/\x1b[2J\nforged")),
        [b"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 2\r\nContent-Encoding: \x1b[2J\r\n\r\n{}"],
        [b"\x1b[2Jnot http\r\n\r\n", Close],
    )
    for _ in range(6):
        with pytest.raises(ClosingbellError) as caught:
            source.fetch_range("AAPL", FIRST, LAST)
        assert str(caught.value).isprintable(), str(caught.value)
        assert str(caught.value.value).isprintable()


def test_the_source_works_on_after_every_fault(server: FaultServer, source: PolygonSource) -> None:
    for fault in FAULTS:
        if "0.1" not in str(fault.reply) and "2.0" not in str(fault.reply):  # the slow ones are slow
            server.requests.clear()
            server.reply(fault.reply, answer(BODY))
            with pytest.raises(ClosingbellError):
                source.fetch_range("AAPL", FIRST, LAST)
            assert len(source.fetch_range("AAPL", FIRST, LAST)) == 10, fault.name


@pytest.mark.parametrize("seed", range(8))
def test_whatever_bytes_come_the_outcome_is_typed(
    seed: int, server: FaultServer, connect: Callable[..., PolygonSource], logs: pytest.LogCaptureFixture
) -> None:
    source = connect(read_timeout=0.05)
    chance = random.Random(seed)
    whole = b"".join(
        step for step in zipped(BODY) + answer(BODY, headers={"Retry-After": "x"}) if isinstance(step, bytes)
    )
    for _ in range(25):
        spoiled = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            spoiled[chance.randrange(len(spoiled) // 3)] = chance.randrange(256)
        server.reply([bytes(spoiled[: chance.randrange(len(spoiled))]), Close])
        with suppress(ClosingbellError):
            source.fetch_range("AAPL", FIRST, LAST)
