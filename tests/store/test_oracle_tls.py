"""An Oracle is reached over TLS by the driver's own handshake: a way that ends TLS leads to the stand-in."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from closingbell.errors import ConfigurationError
from closingbell.store import open_store
from tests.listening import stop_accepting
from tests.oracle import OracleStandIn

pytestmark = pytest.mark.oracle_only("TCPS and wallets; TLS to PostgreSQL: test_tls.py")


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the authority's certificate as ``ewallet.pem``, and a server's for ``localhost`` with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder = tmp_path_factory.mktemp("wallet")
    (folder / "ewallet.pem").write_bytes(certificate)
    (folder / "server.pem").write_bytes(certificate + secret)
    return folder


class TlsEnd:
    """Takes connections over TLS and hands on what comes in them; use it with ``with``."""

    def __init__(self, port: int, wallet: Path) -> None:
        self._target = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(wallet / "server.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> TlsEnd:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        stop_accepting(self._listener, self._accepting)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                safe = self._context.wrap_socket(near, server_side=True)
            except OSError:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            for one, other in ((safe, far), (far, safe)):
                threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def url(oracle_stand_in: OracleStandIn, wallet: Path) -> Iterator[sa.URL]:
    plain = sa.make_url(oracle_stand_in.url)
    assert plain.port
    with TlsEnd(plain.port, wallet) as end:
        yield plain.set(host="localhost", port=end.port)


def look(url: sa.URL, **options: str) -> int:
    text = url.update_query_dict(options).render_as_string(hide_password=False)
    with closing(open_store(text, patience=0)) as store:
        return int(store.records.overview()["bars"])


def test_with_the_authority_in_a_wallet(url: sa.URL, wallet: Path) -> None:
    assert look(url, wallet_location=str(wallet)) == 0


def test_an_authority_that_nobody_knows(url: sa.URL) -> None:
    with pytest.raises(ConfigurationError, match="TLS certificate cannot be verified") as caught:
        look(url, protocol="tcps")
    assert "wallet_location" in caught.value.fix


def test_a_certificate_for_another_name(url: sa.URL, wallet: Path) -> None:
    other = url.set(host="127.0.0.1")
    with pytest.raises(ConfigurationError, match=r"TLS certificate cannot be verified.*127\.0\.0\.1"):
        look(other, wallet_location=str(wallet))
    assert look(other, wallet_location=str(wallet), ssl_server_dn_match="off") == 0


def test_a_wallet_that_is_not_there(url: sa.URL, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the wallet cannot be read"):
        look(url, wallet_location=str(tmp_path))
