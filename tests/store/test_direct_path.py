"""Bars that reach Oracle by direct path load, which nothing but a real Oracle has: its one call is put in its place."""

from __future__ import annotations

from typing import Any

import oracledb
import pytest
import sqlalchemy as sa
from blocks import change, count, days, ranged, rows_of, start, stored

from closingbell.store import Store, open_store, oracle, schema

pytestmark = pytest.mark.oracle_only("no other database has it")


def load_row_by_row(self: Any, schema_name: str, table_name: str, column_names: list[str], data: Any) -> None:
    """What direct path load does to the table, and that it commits."""
    names = ", ".join(f'"{name}"' for name in column_names)
    places = ", ".join(f":{number}" for number in range(1, len(column_names) + 1))
    with self.cursor() as cursor:
        cursor.setinputsizes(*oracle._STAGED_TYPES)
        cursor.executemany(f"INSERT INTO {table_name} ({names}) VALUES ({places})", data)  # noqa: S608
    self.commit()


@pytest.fixture
def direct(store: Store, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store on the same database that loads any bar directly; and the loads."""
    loads: list[int] = []

    def noted(self: Any, schema_name: str, table_name: str, column_names: list[str], data: Any) -> None:
        loads.append(len(data))
        load_row_by_row(self, schema_name, table_name, column_names, data)

    monkeypatch.setattr(oracledb.Connection, "direct_path_load", noted)
    monkeypatch.setattr(oracle, "_WORTH_DIRECT_PATH", 1)
    url = store.engine.url.set(drivername="oracle+oracledb").update_query_dict({"direct_path": "on"})
    opened = open_store(url.render_as_string(hide_password=False))
    yield opened, loads
    opened.close()


def test_bars_end_where_they_do_without_it(store: Store, direct: Any) -> None:
    by_load, loads = direct
    run_id = start(store)
    first, changed = ranged("AAPL", days(0, 40)), ranged("AAPL", days(0, 45), shift=1.0)
    assert by_load.writer.flush(run_id, "polygon", "1d", [first]).inserted == 41
    result = by_load.writer.flush(run_id, "polygon", "1d", [changed])
    assert (result.inserted, result.rewritten) == (5, 41)
    assert loads == [41, 46]
    through_it = stored(store), rows_of(store, schema.revision, "ticker", "session", "old_close", "new_close")

    for table in (schema.bar, schema.watermark, schema.revision):
        change(store, sa.delete(table))
    store.writer.flush(run_id, "polygon", "1d", [first])
    store.writer.flush(run_id, "polygon", "1d", [changed])
    assert loads == [41, 46]
    assert through_it == (stored(store), rows_of(store, schema.revision, "ticker", "session", "old_close", "new_close"))


def test_what_a_flush_that_failed_had_loaded_is_not_stored(store: Store, direct: Any) -> None:
    by_load, loads = direct
    run_id = start(store)

    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("closingbell.store.writer._write_ledger", interrupted)
        with pytest.raises(KeyboardInterrupt):
            by_load.writer.flush(run_id, "polygon", "1d", [ranged("AAPL", days(0, 40))])
    assert loads == [41]
    assert count(store, schema.bar) == 0
    by_load.writer.flush(run_id, "polygon", "1d", [ranged("MSFT", days(0, 5))])
    assert {row[0] for row in stored(store)} == {"MSFT"}
