"""What the settings name is used as it is; what they leave unset is started, and errors say which setting helps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

from closingbell.errors import FatalError
from closingbell.settings import load
from infra import embedded
from infra.postgres import EmbeddedPostgres

NAMED = """
import sys
from closingbell.settings import load
from infra.embedded import provide
with provide(load(database_url="postgresql://me:word@db/bars", polygon_api_key="word")) as provided:
    assert provided.database_url.get_secret_value() == "postgresql://me:word@db/bars"
    assert provided.polygon_base_url == "https://api.polygon.io"
    assert str(provided.quota) == "5 calls a minute"
    assert provided.started == ()
    assert "word" not in repr(provided)
loaded = [name for name in sys.modules if name.startswith(("infra.market", "infra.postgres", "psycopg2", "prefect"))]
assert not loaded, loaded
"""


def test_what_is_named_is_used_and_nothing_else_is_even_imported(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NAMED], check=True, cwd=tmp_path, env={"CLOSINGBELL_HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_unset_is_started_and_ends_with_the_block(tmp_path: Path) -> None:
    settings = load(
        closingbell_home=tmp_path,
        market_size=50,
        polygon_calls_per_minute="7/6s",
        database_url=None,
        polygon_api_key=None,
    )
    with embedded.provide(settings) as provided:
        url = provided.database_url.get_secret_value()
        connection = psycopg2.connect(url.replace("+psycopg2", ""))
        connection.close()
        assert provided.polygon_base_url.startswith("http://127.0.0.1:")
        assert (provided.quota.calls, provided.quota.seconds) == (7, 6.0)
        assert len(provided.started) == 2
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(url.replace("+psycopg2", ""))


def test_a_home_that_cannot_be_written_is_one_readable_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError, match="CLOSINGBELL_HOME"):
        EmbeddedPostgres(tmp_path / "file" / "home").start()
