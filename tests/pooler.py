"""A pgbouncer in transaction mode, as hosted databases have one: each transaction may get another session."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from infra import cluster

_STARTS = 20  # seconds it may take to listen


def program() -> str | None:
    """Where pgbouncer is; None where it is not installed."""
    return shutil.which("pgbouncer", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


class Pooler:
    """Use it with ``with``; :attr:`url` leads through it to any database of the server, as any of its users.

    Args:
        server: the URL of the server on loopback, as a superuser.
        files: to be copied beside its configuration, by their names there.
        settings: of pgbouncer, over those here; ``{folder}`` in them is where the files are.
    """

    def __init__(self, server: sa.URL, files: Mapping[str, Path] | None = None, **settings: object) -> None:
        self._server = server
        self._files = files or {}
        self._settings = settings
        self._folder = TemporaryDirectory(prefix="closingbell-pooler-")
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = server.set(host="127.0.0.1", port=self.port)

    @classmethod
    def with_tls(cls, server: sa.URL, key: Path, certificate: Path) -> Self:
        """One that speaks TLS only."""
        return cls(
            server,
            {"key.pem": key, "certificate.pem": certificate},
            client_tls_sslmode="require",
            client_tls_key_file="{folder}/key.pem",
            client_tls_cert_file="{folder}/certificate.pem",
        )

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        for name, source in self._files.items():
            (folder / name).write_bytes(source.read_bytes())
        found, account = program(), cluster.account_of(folder / "none")
        assert found is not None
        (folder / "users.txt").write_text(f'"{self._server.username}" "{self._server.password}"\n')
        (folder / "pgbouncer.ini").write_text(self._configuration(folder))
        if account:  # pgbouncer does not run as root
            for path in (folder, *folder.iterdir()):
                os.chown(path, *account)
        command = [found, "-q", str(folder / "pgbouncer.ini")]
        identity = {"user": account[0], "group": account[1], "extra_groups": []} if account else {}
        with (folder / "out").open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, cwd="/", **identity)  # type: ignore[call-overload]
        deadline = time.monotonic() + _STARTS
        while True:
            assert self._process.poll() is None, (folder / "out").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            assert time.monotonic() < deadline, "pgbouncer does not listen"
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _configuration(self, folder: Path) -> str:
        settings: Mapping[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "pool_mode": "transaction",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users.txt",
            "auth_user": self._server.username,
            "auth_query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
            "max_client_conn": 1_000,
            "default_pool_size": 20,
            "server_login_retry": 1,
            **self._settings,
        }
        lines = [f"{name} = {str(value).format(folder=folder)}" for name, value in settings.items()]
        return (
            f"[databases]\n* = host={self._server.host} port={self._server.port}\n[pgbouncer]\n"
            + "\n".join(lines)
            + "\n"
        )
