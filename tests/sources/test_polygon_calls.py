"""Every attempt is gated, counted, timed and pooled; the key is in one header and nowhere else."""

from __future__ import annotations

import copy
import pickle
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, sleep

import pytest
from faultserver import FaultServer, answer, head, zipped
from opengate import CANARY, OpenGate
from polygon_bodies import FIRST, LAST, market, series

from closingbell.errors import ClosingbellError, ConfigurationError, RetryableError
from closingbell.sources import Source
from closingbell.sources.polygon import PolygonSource


def test_it_is_a_source(source: PolygonSource) -> None:
    same: Source = source
    assert same.name == "polygon"


def test_eight_threads_use_eight_connections(
    server: FaultServer, connect: Callable[..., PolygonSource], gate: OpenGate
) -> None:
    source = connect(pool_size=8, call_timeout=10, read_timeout=10)
    server.json(series())
    with ThreadPoolExecutor(8) as threads:
        blocks = list(threads.map(lambda _: source.fetch_range("AAPL", FIRST, LAST), range(160)))
    assert {len(block) for block in blocks} == {10}
    assert len(server.requests) == gate.calls == source.calls["range"] == 160
    assert server.connections <= 8


def test_the_gate_is_held_until_the_head_is_in_and_not_for_the_body(
    server: FaultServer, connect: Callable[..., PolygonSource], gate: OpenGate
) -> None:
    source = connect(call_timeout=10, read_timeout=10)
    head_may_go = threading.Event()
    raw = answer(series())
    server.reply([head_may_go, raw[0], gate.left, raw[1]])  # type: ignore[list-item]
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(source.fetch_range, "AAPL", FIRST, LAST)
        while not server.requests:
            sleep(0.001)
        assert gate.inside == 1
        head_may_go.set()
        assert len(future.result(5)) == 10, "the server sent the body only after the gate was left"


def test_a_gate_that_fails_is_not_taken_for_the_vendor(
    connect: Callable[..., PolygonSource], gate: OpenGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shut() -> None:
        raise ConnectionError("the limiter is away")

    monkeypatch.setattr(gate, "call", shut)
    source = connect()
    with pytest.raises(ConnectionError, match="the limiter is away"):
        source.fetch_range("AAPL", FIRST, LAST)
    assert source.calls == {}


def test_seconds_by_stage(server: FaultServer, source: PolygonSource) -> None:
    server.reply([0.1, *answer(series())])
    source.fetch_range("AAPL", FIRST, LAST)
    assert set(source.seconds) == {"waiting", "api", "decoding"}
    assert source.seconds["api"] >= 0.1
    assert source.seconds["waiting"] < 0.1
    assert 0 < source.seconds["decoding"] < 0.5


def test_gzip_and_chunks_are_read(server: FaultServer, source: PolygonSource) -> None:
    plain = answer(series())[1]
    assert isinstance(plain, bytes)
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (plain[:100], plain[100:])) + b"0\r\n\r\n"
    server.reply(zipped(series()), [head(200, None, {"Transfer-Encoding": "chunked"}), chunked], answer(series()))
    assert [len(source.fetch_range("AAPL", FIRST, LAST)) for _ in range(3)] == [10, 10, 10]
    assert server.connections == 1
    assert server.requests[0].headers["accept-encoding"] == "gzip"


def test_a_connection_that_went_idle_and_died_costs_nothing(server: FaultServer, source: PolygonSource) -> None:
    server.json(series())
    source.fetch_range("AAPL", FIRST, LAST)
    server._open[0].shutdown(socket.SHUT_RDWR)
    sleep(0.05)
    assert len(source.fetch_range("AAPL", FIRST, LAST)) == 10
    assert (len(server.requests), server.connections) == (2, 2)


def test_the_clients_experimental_part_is_gated_too(server: FaultServer, source: PolygonSource, gate: OpenGate) -> None:
    server.reply(answer({}, 401))
    with pytest.raises(ConfigurationError):
        list(source._client.vx.list_stock_financials("META"))
    assert (gate.calls, source.calls) == (1, {"other": 1})


def test_the_key_is_in_one_header_only(source: PolygonSource, server: FaultServer) -> None:
    server.json(market(FIRST, ["A"]))
    source.market_day(FIRST, wanted=["A"])
    request = server.requests[0]
    assert {name for name, value in request.headers.items() if CANARY in value} == {"authorization"}
    assert CANARY not in request.target


def test_the_source_shows_no_key(source: PolygonSource) -> None:
    assert CANARY not in repr(source) + str(source) + repr(vars(source)) + repr(vars(source._transport))
    for spill in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="build it in the process"):
            spill(source)


@pytest.mark.parametrize("key", ["", " ", f"{CANARY} ", f"{CANARY}\n", f"{CANARY}\r\nX: y", f"{CANARY}é"])
def test_what_cannot_be_a_key_is_refused_unseen(key: str, server: FaultServer, gate: OpenGate) -> None:
    with pytest.raises(ConfigurationError, match="POLYGON_API_KEY") as caught:
        PolygonSource(key, server.url, gate)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.polygon.io",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://x?apiKey=1",
        f"http://u:{CANARY}@x",
        "http://ä",
    ],
)
def test_what_cannot_be_the_address_is_refused(url: str, gate: OpenGate) -> None:
    with pytest.raises(ConfigurationError, match="POLYGON_BASE_URL") as caught:
        PolygonSource("k", url, gate)
    assert CANARY not in str(caught.value)


class TLSServer(FaultServer):
    """The fault server behind a certificate."""

    def __init__(self, certificate: Path) -> None:
        super().__init__()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self.url = self.url.replace("http:", "https:")

    def wrap(self, connection: socket.socket) -> socket.socket:
        return self._context.wrap_socket(connection, server_side=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one PEM file."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(key.private_bytes(*plain) + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_over_tls(certificate: Path, connect: Callable[..., PolygonSource], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certifi.where", lambda: str(certificate))
    with TLSServer(certificate) as server:
        server.reply(answer(series()), [head(200, 1000)] + [s for _ in range(40) for s in (b"a", 0.1)])
        assert len(connect(server.url).fetch_range("AAPL", FIRST, LAST)) == 10
        hasty = connect(server.url, call_timeout=0.7)
        started = monotonic()
        with pytest.raises(RetryableError, match=r"not complete after 0\.7 s"):
            hasty.fetch_range("AAPL", FIRST, LAST)
        assert monotonic() - started < 3, "not after all the drops of the answer, which take four"


def test_an_unknown_certificate_gets_no_key(certificate: Path, connect: Callable[..., PolygonSource]) -> None:
    with TLSServer(certificate) as server:
        server.json(series())
        with pytest.raises(ClosingbellError, match="no secure connection") as caught:
            connect(server.url).fetch_range("AAPL", FIRST, LAST)
        assert server.requests == []
        assert CANARY not in str(caught.value)
