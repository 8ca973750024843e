"""A local Databento gateway over TLS, which the vendor's unmodified client reads.

It serves ohlcv records from memory, DBN encoded by the vendor's own library, and knows three questions:
``timeseries.get_range``, ``metadata.get_cost``, ``metadata.get_dataset_range``. Its certificate is its own; whoever
sets ``REQUESTS_CA_BUNDLE`` to :attr:`Gateway.certificate` trusts it.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import databento_dbn as dbn
import numpy as np
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray

KEY = "db-cAnArY0kqv7xyzzy8d1f0000000"

#: One record of the ohlcv schemas.
OHLCV = np.dtype(dbn.OHLCVMsg._dtypes)

RTYPES = {"ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35}
UNDEFINED = np.iinfo(np.int64).max


def records(
    ts: NDArray[np.datetime64],
    prices: NDArray[np.float64],
    volume: Any = 10,
    instrument: Any = 1,
    schema: str = "ohlcv-1m",
) -> NDArray[np.void]:
    """Records opening at instants, shape (n,), with open, high, low, close, shape (n, 4); NaN: undefined."""
    made = np.zeros(len(ts), OHLCV)
    made["length"], made["rtype"], made["publisher_id"] = 14, RTYPES[schema], 1
    made["ts_event"] = ts.astype("M8[ns]").astype(np.uint64)
    made["instrument_id"], made["volume"] = instrument, volume
    for name, column in zip(("open", "high", "low", "close"), prices.T, strict=True):
        whole = np.rint(np.nan_to_num(column) * 1e9).astype(np.int64)
        made[name] = np.where(np.isnan(column), UNDEFINED, whole)
    return made


@dataclass
class Gateway:
    """The gateway, serving within ``with``.

    Attributes:
        series: the records of each symbol and schema, ascending.
        start, end: what there is of every dataset; the end is not included.
        faults: what to answer the next calls for bars with instead: a status with a body, or ``cut``, ``short``.
        asked: every request: its path and its fields.
    """

    home: Path
    series: dict[tuple[str, str], NDArray[np.void]] = field(default_factory=dict)
    start: str = "2010-06-06T00:00:00.000000000Z"
    end: str = "2026-01-01T00:00:00.000000000Z"
    faults: list[Any] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    @property
    def certificate(self) -> Path:
        """The file that ``REQUESTS_CA_BUNDLE`` has to name."""
        return self.home / "gateway.pem"

    def of(self, kind: str) -> list[dict[str, str]]:
        """The fields of each request of a kind, such as ``get_range``."""
        return [fields for path, fields in self.asked if path.endswith(kind)]

    def __enter__(self) -> Gateway:
        self.home.mkdir(parents=True, exist_ok=True)
        _certificate(self.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"gateway": self}))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def body(self, fields: dict[str, str]) -> bytes:
        """What a range is answered with: metadata and records, as zstd."""
        symbol, schema = fields["symbols"], fields["schema"]
        begin, end = (_ns(fields[name]) for name in ("start", "end"))
        found = self.series.get((symbol, schema), np.zeros(0, OHLCV))
        rows = found[(found["ts_event"] >= begin) & (found["ts_event"] < end)]
        known = (symbol, schema) in self.series
        day = dt.date(2020, 1, 1)
        mapping = SimpleNamespace(
            raw_symbol=symbol,
            intervals=[SimpleNamespace(start_date=day, end_date=dt.date(2026, 1, 1), symbol="1")],
        )
        metadata = dbn.Metadata(
            dataset=fields["dataset"],
            start=begin,
            end=end,
            stype_in=dbn.SType.from_str(fields["stype_in"]),
            stype_out=dbn.SType.INSTRUMENT_ID,
            schema=dbn.Schema.from_str(schema),
            symbols=[symbol],
            partial=[],
            not_found=[] if known else [symbol],
            mappings=[mapping] if known else [],
        )
        return zstandard.ZstdCompressor().compress(metadata.encode() + rows.tobytes())


class _Handler(BaseHTTPRequestHandler):
    gateway: Gateway
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests read what was asked."""

    def do_GET(self) -> None:
        self._answer(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _answer(self, form: str) -> None:
        fields = {name: values[0] for name, values in parse_qs(form).items()}
        path = urlsplit(self.path).path
        self.gateway.asked.append((path, fields))
        wanted = "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            return self._send(401, json.dumps({"detail": f"Authentication failed for {KEY}"}).encode())
        if path.endswith("get_dataset_range"):
            span = {"start": self.gateway.start, "end": self.gateway.end}
            return self._send(200, json.dumps({**span, "schema": {"ohlcv-1m": span}}).encode())
        if path.endswith("get_cost"):
            rows = len(self._decoded(fields))
            return self._send(200, json.dumps(rows * 56 / 1e9 * 280).encode())  # 280 dollars a gigabyte
        fault = self.gateway.faults.pop(0) if self.gateway.faults else None
        if isinstance(fault, tuple):
            return self._send(fault[0], json.dumps(fault[1]).encode())
        body = self.gateway.body(fields)
        if fault == "short":  # whole by HTTP, and not by its own frame
            body = body[:-10]
        return self._send(200, body, cut=fault == "cut")

    def _decoded(self, fields: dict[str, str]) -> NDArray[np.void]:
        found = self.gateway.series.get((fields["symbols"], fields["schema"]), np.zeros(0, OHLCV))
        begin, end = (_ns(fields[name]) for name in ("start", "end"))
        rows: NDArray[np.void] = found[(found["ts_event"] >= begin) & (found["ts_event"] < end)]
        return rows

    def _send(self, status: int, body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True


def _ns(text: str) -> int:
    return int(np.datetime64(dt.datetime.fromisoformat(text).astimezone(dt.UTC).replace(tzinfo=None), "ns").astype(int))


def _certificate(path: Path) -> None:
    """A certificate of its own for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a gateway for tests")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
