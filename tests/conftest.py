"""Real parts for every test: PostgreSQL, a Prefect server, a market, each started once, when first asked for."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import TYPE_CHECKING

import certifi
import pytest
import sqlalchemy as sa

from closingbell.settings import Settings
from closingbell.store import Store, open_store
from infra import migrations
from infra.market.process import MarketProcess
from infra.postgres import EmbeddedPostgres
from tests import older, oracle
from tests.databases import OneSchema
from tests.pooler import Pooler

if TYPE_CHECKING:
    from deployments.prefect_server import PrefectServer

_OURS = {name.upper() for name in Settings.model_fields}

#: Tests in this folder run on each kind of database.
_ON_EACH = Path(__file__).parent / "store"
_KINDS = {"postgresql": "postgres_only", "oracle": "oracle_only"}
#: Fixtures that lead to a PostgreSQL server.
_POSTGRES = {"postgres", "front", "unpooled", "_template"}

#: A file system in memory, and how many bytes it has to have free; three processes of tests use about a fifth.
_MEMORY, _AMPLE = Path("/dev/shm"), 6 * 2**30  # noqa: S108  (a folder of our own below it)
_SCRATCH = "closingbell-tests-"

#: Objects from which on garbage is looked for, and how many times more of it the older ones are. By default a session's
#: processes go through all of Prefect's modules after each run in them: a twentieth of their time.
_GARBAGE = (5_000, 20, 50)

#: The files that take longest, in this order, before all others: the processes then end at about the same time. It
#: holds with ``--no-loadscope-reorder`` only; without, pytest-xdist sorts files by their number of tests.
_LONGEST = (
    *("test_stack", "test_front_door", "test_views", "test_limiter_life", "test_dask", "test_healing", "test_scale"),
    *("test_two_databases", "test_pages", "test_kills", "test_flush", "test_facts", "test_oracle_outage", "test_calls"),
    *("test_failures", "test_oracle", "test_pauses", "test_limiter_limit", "test_reconcile", "test_recount"),
    *("test_splits", "test_canary", "test_cancel", "test_limiter_quota", "test_vendor_faults", "test_polygon_faults"),
    *("test_flat_files", "test_intraday", "test_derive", "test_derive_events", "test_soak", "test_claims"),
    *("test_outage", "test_two_runs", "test_overlap", "test_blocks", "test_oracle_poison", "test_real_bars"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Where memory is ample, write to no disk: most of the time of all tests would go into databases' files."""
    gc.set_threshold(*_GARBAGE)
    if hasattr(config, "workerinput") or os.environ.get("TMPDIR") or not _memory_is_ample():
        return  # a worker has it from who started it
    for left in _MEMORY.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if left.stat().st_mtime < time() - 60:
                _free(left, _hold(left))
    scratch = tempfile.mkdtemp(prefix=_SCRATCH, dir=_MEMORY)
    config.add_cleanup(partial(_free, scratch, _hold(scratch)))
    Path(scratch).chmod(0o711)  # as root, PostgreSQL runs as another user
    os.environ["TMPDIR"] = tempfile.tempdir = scratch


def _hold(folder: Path | str) -> int:
    """Lock it for as long as this process lives; OSError while another holds it."""
    held = os.open(folder, os.O_RDONLY)
    try:
        flock(held, LOCK_EX | LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held


def _free(folder: Path | str, held: int) -> None:
    """Remove a folder that is held: this session's at its end, or what a killed one has left."""
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)


def _memory_is_ample() -> bool:
    """Whether there is a file system in memory, and room in both."""
    try:
        room = shutil.disk_usage(_MEMORY).free
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return min(room, int(told["MemAvailable"].split()[0]) * 1024) > _AMPLE
    except (OSError, KeyError):
        return False


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first; what is for one kind of database is on it, whatever it uses."""
    for item in items:
        for kind, marker in _KINDS.items():
            if item.get_closest_marker(marker):
                item.add_marker(kind)
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test in ``tests/store`` that works with a database on each kind, or on the one it is marked for."""
    if _ON_EACH not in metafunc.definition.path.parents:
        return
    marked = {kind for kind, marker in _KINDS.items() if metafunc.definition.get_closest_marker(marker)}
    if _POSTGRES.intersection(metafunc.fixturenames) and marked != {"postgresql"}:
        raise pytest.UsageError(f"{metafunc.definition.nodeid} needs the marker postgres_only, with the reason")
    if "backend" in metafunc.fixturenames:
        kinds = [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in _KINDS if kind in (marked or _KINDS)]
        metafunc.parametrize("backend", kinds, indirect=True)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of the machine it runs on, nor writes into the checkout."""
    for name in _OURS - {"PREFECT_API_URL"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOSINGBELL_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real market data."""
    folder = os.environ.get("CLOSINGBELL_DATA")
    if not folder:
        pytest.skip("CLOSINGBELL_DATA is not set: no real market data to test with")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A PostgreSQL server: the one that CLOSINGBELL_TEST_POSTGRES_URL names, else an embedded one.

    With CLOSINGBELL_TEST_POSTGRES_OLDER=1 it is one of an earlier version.
    """
    named = os.environ.get("CLOSINGBELL_TEST_POSTGRES_URL")
    if named:
        yield sa.make_url(named).set(drivername="postgresql+psycopg2")
        return
    if os.environ.get("CLOSINGBELL_TEST_POSTGRES_OLDER"):
        yield request.getfixturevalue("older_postgres")
        return
    # Not below pytest's own folder: each other session that starts takes everybody's rights to it away, and as root
    # the server runs as another user.
    with TemporaryDirectory(prefix="closingbell-tests-") as home, EmbeddedPostgres(Path(home)) as server:
        server.ensure_database("tests")
        url = sa.make_url(server.url("tests"))
        # Nothing here has to outlive the machine, and each test makes a database of its own.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            _execute(url, f"ALTER SYSTEM SET {setting} = off")
        _execute(url, "SELECT pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def older_postgres() -> Iterator[sa.URL]:
    """A PostgreSQL of an earlier version."""
    with older.older_postgres() as url:
        yield url


@pytest.fixture
def older_url(older_postgres: sa.URL) -> Iterator[str]:
    """The URL of a database on a PostgreSQL of an earlier version: nobody else's, at the newest migration and empty."""
    with _made(older_postgres, "older") as url:
        with closing(open_store(url)) as store:
            migrations.upgrade(store.engine)
        yield url


@pytest.fixture
def bare_older_url(older_postgres: sa.URL) -> Iterator[str]:
    """The same, with nothing in it."""
    with _made(older_postgres, "bare") as url:
        yield url


@pytest.fixture(scope="session")
def _template(postgres: sa.URL) -> str:
    """A migrated database that the tests' own are copied from."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    _execute(postgres, f'CREATE DATABASE "{name}"')
    with closing(open_store(postgres.set(database=name).render_as_string(hide_password=False))) as store:
        migrations.upgrade(store.engine)
    return name


@pytest.fixture(scope="session")
def front(postgres: sa.URL) -> Iterator[sa.URL]:
    """How the tests reach their databases: the server, or a pgbouncer in front of it (CLOSINGBELL_TEST_PGBOUNCER=1)."""
    if not os.environ.get("CLOSINGBELL_TEST_PGBOUNCER"):
        yield postgres
        return
    with Pooler(postgres) as pooler:
        yield pooler.url


@pytest.fixture
def unpooled(front: sa.URL, postgres: sa.URL) -> None:
    """For tests of what the server itself says to a login, which a pooler does not hand on."""
    if front != postgres:
        pytest.skip("a pooler answers for the server")


@pytest.fixture(scope="session")
def _stand_in() -> Iterator[tuple[oracle.OracleStandIn, OneSchema]]:
    oracle.need()
    with oracle.OracleStandIn() as running, closing(OneSchema(running.url, renew=running.restart)) as schema:
        yield running, schema


@pytest.fixture
def oracle_stand_in(_stand_in: tuple[oracle.OracleStandIn, OneSchema]) -> oracle.OracleStandIn:
    """The stand-in for an Oracle, its tables empty and its log too, for tests that cut or count its executes."""
    running, schema = _stand_in
    schema.clean()
    running.log()
    return running


@pytest.fixture(scope="session")
def _oracle(request: pytest.FixtureRequest) -> Iterator[OneSchema]:
    """The schema of the Oracle that CLOSINGBELL_TEST_ORACLE_URL names, else of the stand-in."""
    named = os.environ.get("CLOSINGBELL_TEST_ORACLE_URL")
    if not named:
        yield request.getfixturevalue("_stand_in")[1]
        return
    with closing(OneSchema(named, shared=True)) as schema:
        yield schema


@pytest.fixture
def oracle_url(_oracle: OneSchema) -> Iterator[str]:
    """The URL of an Oracle's schema that nobody else works with, at the newest migration and empty."""
    with _oracle.alone():
        _oracle.clean()
        yield _oracle.url


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of database that this test is run on, as SQLAlchemy calls it."""
    return getattr(request, "param", "postgresql")


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database that nobody else works with, at the newest migration and empty."""
    if backend == "oracle":
        yield request.getfixturevalue("oracle_url")
        return
    # Not asked for above: a test on another kind of database starts no PostgreSQL.
    postgres, front, template = map(request.getfixturevalue, ("postgres", "front", "_template"))
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(postgres, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield front.set(database=name).render_as_string(hide_password=False)
    _execute(postgres, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def bare_url(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database that nobody else works with, and that has nothing in it."""
    if backend == "oracle":
        schema: OneSchema = request.getfixturevalue("_oracle")
        with schema.alone():
            schema.drop()
            yield schema.url
        return
    with _made(request.getfixturevalue("postgres"), "bare") as url:
        yield url


@pytest.fixture
def altered(backend: str, database_url: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests that alter tables: on a kind that has one schema for all tests, it is made anew for the next."""
    yield
    if backend == "oracle":
        request.getfixturevalue("_oracle").spoil()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store on that database."""
    opened = open_store(database_url, connections=8)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def _market() -> Iterator[MarketProcess]:
    with MarketProcess(size=1_500) as running:
        yield running


@pytest.fixture
def market(_market: MarketProcess) -> MarketProcess:
    """A generated market without a quota, shared: its log and faults are cleared for each test that asks for it."""
    _market.clear_calls()
    _market.clear_faults()
    return _market


@pytest.fixture(scope="session")
def prefect_api(prefect_server: PrefectServer) -> str:
    """The API URL of the Prefect server."""
    return prefect_server.api_url


@pytest.fixture(scope="session")
def prefect_server(postgres: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server, shared; this process, its threads and its children all work with it."""
    from prefect.context import refresh_global_settings_context
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    from deployments.prefect_server import PrefectServer, client_environment, prefect_environment

    home, name = tmp_path_factory.mktemp("prefect-server"), f"prefect_{uuid.uuid4().hex[:12]}"
    _execute(postgres, f'CREATE DATABASE "{name}"')
    url = postgres.set(drivername="postgresql+asyncpg", database=name)
    server = PrefectServer(home, url.render_as_string(hide_password=False))
    try:
        server.start()
        server.wait_ready()
        with prefect_environment(client_environment(home, server.api_url) | _spared(home)):
            refresh_global_settings_context()  # what threads see that have no settings of their own
            yield server
            # What is still on its way to the server would be tried again and again once it is gone.
            APILogWorker.drain_all()
            EventsWorker.drain_all()
    finally:
        server.stop()
    refresh_global_settings_context()


def _spared(home: Path) -> dict[str, str]:
    """What each client of a server without TLS need not do: read all authorities there are, and ask for a token."""
    end = "-----END CERTIFICATE-----\n"
    (home / "one.pem").write_text(certifi.contents().partition(end)[0] + end)
    return {"PREFECT_API_SSL_CERT_FILE": str(home / "one.pem"), "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false"}


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line past pytest's capture, between what the runs log."""

    def line(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)  # noqa: T201

    return line


@contextmanager
def _made(server: sa.URL, kind: str) -> Iterator[str]:
    """The URL of a new database, for the time of the block."""
    name = f"{kind}_{uuid.uuid4().hex[:12]}"
    _execute(server, f'CREATE DATABASE "{name}"')
    yield server.set(database=name).render_as_string(hide_password=False)
    _execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(server: sa.URL, statement: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
