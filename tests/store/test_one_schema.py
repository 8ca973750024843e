"""The tests' own hold on an Oracle: they never empty what they have not made."""

from __future__ import annotations

from contextlib import closing

import pytest
import sqlalchemy as sa

from tests.databases import OneSchema
from tests.oracle import OracleStandIn, need

pytestmark = pytest.mark.oracle_only("about the schema that tests on Oracle share")


def test_somebodys_tables_are_not_emptied() -> None:
    need()
    with OracleStandIn() as running:
        owner = sa.create_engine(running.url, poolclass=sa.NullPool)
        with owner.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE bar (ticker VARCHAR2(32))")
            connection.exec_driver_sql("INSERT INTO bar VALUES ('AAPL')")
        with (
            closing(OneSchema(running.url, shared=True)) as schema,
            schema.alone(),
            pytest.raises(AssertionError, match="name a user who owns nothing"),
        ):
            schema.clean()
        with owner.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM bar").scalar_one() == 1
