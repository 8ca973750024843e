"""A database in use is backed up and restored; then the plan has what is missing since, and nothing else."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from blocks import change, days, ranged, start
from click.testing import CliRunner

from closingbell import read
from closingbell.cli import cli
from closingbell.errors import ConfigurationError, FatalError
from closingbell.store import Store, open_store
from closingbell.store.schema import run
from infra import backup, migrations
from infra.backup import dump, main, restore
from tests.databases import contents

#: After the last of the sessions in ``blocks``.
NOW = "2024-03-29T12:00:00+00:00"

pytestmark = pytest.mark.postgres_only("Oracle has programs of its own for it")


@pytest.fixture(autouse=True)
def programs() -> None:
    try:
        backup._program("pg_dump")
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.fixture
def other(bare_url: str) -> Iterator[Store]:
    """An empty database."""
    with closing(open_store(bare_url)) as store:
        yield store


def flush(store: Store, first: int, last: int, shift: float = 0.0) -> None:
    run_id = start(store)
    outcomes = [ranged(ticker, days(first, last), shift) for ticker in ("AAPL", "MSFT")]
    store.writer.flush(run_id, "stand-in", "1d", outcomes)
    change(store, sa.update(run).where(run.c.run_id == run_id).values(state="Completed"))


def planned(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("CLOSINGBELL_NOW", NOW)
    asked = ["plan", "--tickers", "AAPL,MSFT", "--start", "2024-01-02", "--json"]
    found = CliRunner().invoke(cli, asked)
    assert found.exit_code == 0, found.output
    told: dict[str, Any] = json.loads(found.stdout)
    return told


def test_what_is_missing_since_a_backup_is_all_that_is_planned(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, restored = (each.engine.url.render_as_string(hide_password=False) for each in (store, other))
    flush(store, 0, 40)
    flush(store, 38, 40, 2.0)  # the vendor changed three sessions
    before, frame = contents(store.engine), read.bars(adjusted=True, database=store)
    file = tmp_path / "bars.dump"
    monkeypatch.setenv("DATABASE_URL", url)
    done = CliRunner().invoke(main, ["dump", str(file)])
    assert (done.exit_code, done.output) == (0, f"wrote {file}, {file.stat().st_size:,} bytes\n")
    assert file.stat().st_mode & 0o077 == 0
    flush(store, 41, 60)  # after the backup, and lost with the server

    monkeypatch.setenv("DATABASE_URL", restored)
    done = CliRunner().invoke(main, ["restore", str(file)])
    assert done.exit_code == 0, done.output
    assert contents(other.engine) == before
    with other.engine.connect() as connection:
        assert migrations.is_current(connection)
    assert read.bars(adjusted=True, database=other).equals(frame)
    assert len(read.revisions(database=other)) == 6

    missing = planned(restored, monkeypatch)
    assert missing["cells"] == 2 * len(days(41, 60))
    assert planned(url, monkeypatch)["cells"] == 0
    flush(other, 41, 60)
    assert planned(restored, monkeypatch)["cells"] == 0
    assert contents(other.engine)["bar"] == contents(store.engine)["bar"]


def test_a_server_of_an_earlier_version_than_the_programs(older_url: str, bare_older_url: str, tmp_path: Path) -> None:
    """What pg_restore sets before it begins, such a server may not know."""
    file = tmp_path / "bars.dump"
    with closing(open_store(older_url)) as old, closing(open_store(bare_older_url)) as new:
        flush(old, 0, 40)
        dump(old.engine, file)
        restore(new.engine, file)
        assert contents(new.engine) == contents(old.engine)
        assert contents(new.engine)["bar"]
        with pytest.raises(ConfigurationError, match="has tables already"):
            restore(new.engine, file)


def test_what_the_database_refuses_is_told_and_nothing_is_kept(store: Store, other: Store, tmp_path: Path) -> None:
    flush(store, 0, 4)
    file = tmp_path / "bars.dump"
    dump(store.engine, file)
    with other.engine.begin() as connection:  # the name of one of ours, late in the file
        connection.execute(sa.text("CREATE VIEW watermark_pkey AS SELECT 1 AS one"))
    with pytest.raises(FatalError, match=r'psql failed: .*"watermark_pkey" already exists'):
        restore(other.engine, file)
    assert sa.inspect(other.engine).get_table_names() == []


def test_nothing_is_overwritten(store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush(store, 0, 4)
    file = tmp_path / "bars.dump"
    dump(store.engine, file)
    kept = file.read_bytes()
    with pytest.raises(ConfigurationError, match="is there already"):
        dump(store.engine, file)
    with pytest.raises(ConfigurationError, match=r"has tables already: .*bar.*new, empty database"):
        restore(store.engine, file)
    with pytest.raises(ConfigurationError, match="there is no such file"):
        restore(other.engine, tmp_path / "none.dump")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        dump(store.engine, tmp_path / "none" / "bars.dump")
    broken = tmp_path / "broken.dump"
    broken.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(FatalError, match="pg_restore failed"):
        restore(other.engine, broken)
    assert sa.inspect(other.engine).get_table_names() == [], "all of it or nothing"
    restore(other.engine, file)
    assert contents(other.engine) == contents(store.engine)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["bars.dump", "broken.dump"]


def test_a_password_is_on_no_command_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for pg_dump writes down how it was called, and fails."""
    secret = f"canary-{uuid.uuid4().hex}"
    monkeypatch.setattr(backup, "_program", lambda _: str(_told(tmp_path)))
    options = {"host": "127.0.0.1", "password": secret, "user": "me", "dbname": "bars"}
    monkeypatch.setattr(store.engine.dialect, "create_connect_args", lambda _: ([], dict(options)))
    with pytest.raises(FatalError) as error:
        dump(store.engine, tmp_path / "bars.dump")
    called = (tmp_path / "called").read_text()
    assert f"PGPASSWORD={secret}" in called
    assert secret not in called.replace(f"PGPASSWORD={secret}", "")
    assert secret not in str(error.value)
    assert not list(tmp_path.glob("*.dump*"))


def _told(folder: Path) -> Path:
    program = folder / "program"
    program.write_text(f'#!/bin/sh\n(echo "$@"; env) > {folder}/called\nexit 1\n')
    program.chmod(0o700)
    assert os.access(program, os.X_OK)
    return program
