"""A PostgreSQL as somebody else may have it: of an earlier version than the embedded one, and set up in other ways."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import sqlalchemy as sa

from infra import cluster, leash
from infra.postgres import programs

#: The wheel of the embedded one has it too; PostgreSQL 15 is the oldest that is supported.
VERSION: Final = 16

#: What may change how values are told, sorted, read and seen.
_SETTINGS: Final = {
    "bytea_output": "escape",
    "datestyle": "SQL, DMY",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "0",
    "idle_in_transaction_session_timeout": "2min",
    "intervalstyle": "sql_standard",
    "lock_timeout": "10s",
    "statement_timeout": "1min",
    "timezone": "America/New_York",
}


@contextmanager
def older_postgres() -> Iterator[sa.URL]:
    """Its URL, as a superuser, for the time of a block; the test is skipped where the wheel has no other version."""
    binaries = programs().parents[1] / "pginstall" / "bin"
    told = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=False)
    if f" {VERSION}." not in told.stdout:
        pytest.skip(f"there is no PostgreSQL {VERSION} here")
    with TemporaryDirectory(prefix="closingbell-older-") as folder, socket.socket() as probe:
        home, password = Path(folder), secrets.token_urlsafe(24)
        data, secret, account = home / "data", home / "password", cluster.account_of(home / "none")
        secret.write_text(password)
        identity: dict[str, Any] = {}
        if account:  # PostgreSQL does not run as root
            identity = {"user": account[0], "group": account[1], "extra_groups": []}
            for path in (home, secret):
                os.chown(path, *account)
        make = [binaries / "initdb", "-D", data, "-U", cluster.USER, f"--pwfile={secret}", "--auth=scram-sha-256"]
        subprocess.run(
            [*make, "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
            check=True,
            capture_output=True,
            **identity,
        )
        probe.bind((cluster.HOST, 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-I", "-S", str(Path(leash.__file__).resolve()), "--signal", "INT"]
        command += ["--user", f"{account[0]}:{account[1]}"] if account else []
        command += ["--", str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", ""]
        for name, value in ({"fsync": "off"} | _SETTINGS).items():
            command += ["-c", f"{name}={value}"]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/")
        with server:  # at the end of the block the leash is let go
            ready = [binaries / "pg_isready", "-h", cluster.HOST, "-p", str(port), "--timeout=1"]
            while subprocess.run(ready, capture_output=True, check=False).returncode:
                assert server.poll() is None, (home / "log").read_text()
            yield sa.URL.create("postgresql+psycopg2", cluster.USER, password, cluster.HOST, port, "postgres")
