"""The embedded PostgreSQL: shared by processes, closed to strangers, and indifferent to kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from closingbell.errors import ConfigurationError
from infra import cluster
from infra.postgres import EmbeddedPostgres, buffers, running

ProcessesOf = Callable[[Path], list[str]]
Eventually = Callable[..., None]

USER_OF_IT = """
import sys
from pathlib import Path
from infra.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
server.ensure_database("shared")
print(server.port, flush=True)
sys.stdin.readline()
server.stop()
"""


def starter(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER_OF_IT, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout
    return int(process.stdout.readline())


def query(server: EmbeddedPostgres, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
    connection = psycopg2.connect(server.url(database, driver="postgresql"))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database was made and stopped; copying it spares each test an initdb."""
    home = tmp_path_factory.mktemp("pg")
    with running(home) as server:
        server.ensure_database("shared")
        query(server, "create table kept (n int)", "shared")
        query(server, "insert into kept select generate_series(1, 1000)", "shared")
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path, processes_of: ProcessesOf, eventually: Eventually) -> Iterator[Path]:
    subprocess.run(["cp", "-a", str(template / "postgres"), str(tmp_path)], check=True)
    yield tmp_path
    eventually(lambda: not processes_of(tmp_path))


def test_data_survive_a_stop_and_nothing_keeps_running(home: Path, processes_of: ProcessesOf) -> None:
    with running(home) as server:
        assert query(server, "select count(*) from kept", "shared") == [(1000,)]
        query(server, "insert into kept values (1001)", "shared")
        kept = query(server, "select setting::int / 128 from pg_settings where name = 'shared_buffers'")
        assert kept == [(buffers(),)]
        assert query(server, "show fsync") == query(server, "show synchronous_commit") == [("on",)]
        port = server.port
    assert processes_of(home) == []
    with running(home) as server:
        assert query(server, "select max(n) from kept", "shared") == [(1001,)]
        assert server.port == port, "a URL that someone noted stays good"


def test_processes_that_start_together_share_one_server(tmp_path: Path, processes_of: ProcessesOf) -> None:
    starters = [starter(tmp_path) for _ in range(4)]
    assert len({port_of(process) for process in starters}) == 1
    for process in starters[:3]:
        process.communicate("\n")
    assert cluster.running(tmp_path / "postgres"), "the last one still uses it"
    starters[3].communicate("\n")
    assert [process.returncode for process in starters] == [0] * 4
    assert processes_of(tmp_path) == []


def test_a_killed_user_takes_the_server_along_but_only_as_the_last(
    home: Path, processes_of: ProcessesOf, eventually: Eventually
) -> None:
    first, second = starter(home), starter(home)
    assert port_of(first) == port_of(second)
    first.kill()
    first.wait()
    with running(home) as server:
        assert query(server, "select 1") == [(1,)]
    assert cluster.running(home / "postgres")
    second.kill()
    second.wait()
    eventually(lambda: not processes_of(home))


@pytest.mark.parametrize("whom", ["postmaster", "leash", "both"])
def test_a_kill_of_the_server_is_recovered_at_the_next_start(home: Path, whom: str, eventually: Eventually) -> None:
    with running(home) as server:
        query(server, "insert into kept values (2000)", "shared")
        found = cluster.running(home / "postgres")
        assert found
        assert server._leash
        victims = {"postmaster": [found.pid], "leash": [server._leash.pid], "both": [server._leash.pid, found.pid]}
        for pid in victims[whom]:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: cluster.running(home / "postgres") is None)
        with running(home) as again:  # while the first one still thinks that it has a server
            assert query(again, "select max(n) from kept", "shared") == [(2000,)]


def test_a_stale_pid_file_with_the_pid_of_another_process_does_not_hinder(home: Path) -> None:
    lines = [str(os.getpid()), str(home / "postgres"), "1700000000", "5432", "", "127.0.0.1", "1 2", "ready"]
    (home / "postgres" / "postmaster.pid").write_text("\n".join(lines))
    with running(home) as server:
        assert query(server, "select 1") == [(1,)]


def test_an_interrupted_creation_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "postgres.new-dead").mkdir()
    (tmp_path / "postgres.new-dead" / "PG_VERSION").write_text("18")
    (tmp_path / "postgres.new-word").write_text("secret")
    with running(tmp_path):
        pass
    assert not list(tmp_path.glob("*.new-*"))


def test_a_home_with_a_long_path_works(template: Path, tmp_path: Path, processes_of: ProcessesOf) -> None:
    home = tmp_path / ("long" * 30) / ("er" * 40)
    home.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(template / "postgres"), str(home)], check=True)
    with running(home) as server:
        assert query(server, "select 1") == [(1,)]
    assert processes_of(home) == []


def test_strangers_are_refused_and_it_listens_on_loopback_only(home: Path, processes_of: ProcessesOf) -> None:
    with running(home) as server:
        for password in ("", "guess"):
            with pytest.raises(psycopg2.OperationalError, match="password"):
                psycopg2.connect(
                    host="127.0.0.1", port=server.port, user=cluster.USER, password=password, dbname="shared"
                )
        assert query(server, "show listen_addresses") == [("127.0.0.1",)]
        assert query(server, "show unix_socket_directories") == [("",)]
        secret = cluster.password(server.data)
        assert secret not in repr(server)
        assert secret not in " ".join(processes_of(home))
        for path in (server.data, server.data / "closingbell.password"):
            assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("limit", "expected"), [("536870912", 128), ("4294967296", 256), ("274877906944", buffers()), ("max", buffers())]
)
def test_what_it_keeps_of_the_data_is_a_share_of_the_memory_there_is(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    assert buffers(tmp_path / "memory.max") == min(expected, buffers())
    assert 128 <= buffers(tmp_path / "missing") == buffers() <= 512


def test_data_of_another_version_are_refused_with_the_fix(home: Path) -> None:
    (home / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        EmbeddedPostgres(home).start()
