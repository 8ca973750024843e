"""Imports point one way: flows -> tasks -> closingbell, and in there each room knows its own trade only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("closingbell", "tasks", "flows", "deployments", "infra")
HTTP = {"polygon", "urllib3", "requests", "httpx", "http", "urllib.request", "socket", "aiohttp"}
SQL = {"sqlalchemy", "psycopg2", "oracledb", "alembic", "asyncpg"}

#: Who may not import what, by path below the root; a prefix counts with all that is below it.
FORBIDDEN = [
    ("closingbell", {"prefect", "tasks", "flows", "infra", "deployments", "benchmarks"}),
    ("tasks", {"flows", "deployments"}),
    ("flows", {"deployments"}),
    ("infra", {"prefect", "tasks", "flows"}),
    ("closingbell/plan.py", HTTP | SQL | {"closingbell.sources", "closingbell.store"}),
    ("closingbell/cells.py", HTTP | SQL | {"closingbell.sources", "closingbell.store"}),
    ("closingbell/quality.py", HTTP | SQL | {"closingbell.sources", "closingbell.store"}),
    *(
        (f"closingbell/{name}.py", HTTP | SQL | {"closingbell.sources", "closingbell.store"})
        for name in ("scale", "halves", "runs", "neighbours", "restated", "twins", "healing", "rollup")
    ),
    ("closingbell/outcome.py", HTTP | SQL | {"closingbell.sources", "closingbell.store"}),
    ("closingbell/calendar.py", HTTP | SQL | {"closingbell.sources", "closingbell.store"}),
    ("closingbell/store/ledger.py", SQL),
    ("closingbell/events", HTTP | SQL | {"closingbell.sources"}),
    ("closingbell/sources", SQL | {"closingbell.store"}),
    ("closingbell/store", HTTP | {"closingbell.sources"}),
]

#: Plain values that cross: the store writes the split that every source hands on.
CROSSING = {(f"closingbell/store/{name}.py", "closingbell.sources.base.Split") for name in ("facts", "splits")}


def sources(below: str) -> list[Path]:
    path = ROOT / below
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def imported(path: Path) -> list[tuple[int, str]]:
    """Every name that a file imports, wherever in it, in full: ``from a import b`` is ``a.b``."""
    return list(_imports(path.read_text(), str(path)))


def _imports(text: str, name: str = "") -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}:{node.lineno}: imports are written in full here"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize(("below", "banned"), FORBIDDEN, ids=[below for below, _ in FORBIDDEN])
def test_nobody_imports_what_is_not_his(below: str, banned: set[str]) -> None:
    files = sources(below)
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported(path)
        if any(within(name, module) for module in banned) and (str(path.relative_to(ROOT)), name) not in CROSSING
    ]
    assert wrong == []


def test_the_exceptions_are_in_use() -> None:
    assert all(name in {n for _, n in imported(ROOT / path)} for path, name in CROSSING)


def test_only_flows_tasks_and_deployments_know_prefect() -> None:
    users = {
        path.relative_to(ROOT).parts[0]
        for package in PACKAGES
        for path in sources(package)
        for _, name in imported(path)
        if within(name, "prefect")
    }
    assert users == {"flows", "tasks", "deployments"}


#: What only one kind of database has or says so.
OF_ONE_DATABASE = re.compile(
    r"\b(psycopg2|oracledb|unnest|pg_\w+|ON CONFLICT|on_conflict_\w+|jsonb_\w+|json_(?:table|value)|FROM dual"
    r"|timestamptz|VARCHAR2|dialect\.name)\b"
)


def test_each_database_is_known_in_its_own_file_only() -> None:
    own = {"postgres.py", "copy.py", "copied.py", "partitions.py", "oracle.py"}  # the middle ones are PostgreSQL's
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {found.group()}"
        for path in sources("closingbell")
        if path.name not in own
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := OF_ONE_DATABASE.search(line))
    ]
    assert wrong == []
    users = {
        str(path.relative_to(ROOT))
        for path in sources("closingbell")
        for _, name in imported(path)
        if any(within(name, f"closingbell.store.{module}") for module in ("postgres", "copy", "copied", "oracle"))
    }
    assert users == {"closingbell/store/postgres.py", "closingbell/store/copied.py"}


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Every dotted name in a file: ``os.environ``, ``datetime.now``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources("closingbell")
        for line, name in calls(path)
        if name in ("os.environ", "os.getenv", "os.environb", "os.putenv")
    }
    assert readers == set()


def test_time_is_read_in_one_place() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in sources("closingbell")
        for _, name in calls(path)
        if name in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.fromtimestamp")
    }
    assert readers == {"closingbell/clock.py"}


def test_the_reader_of_imports_sees_them_all() -> None:
    text = "import a.b as c\nfrom d import e\ndef f():\n    import g\n    from h.i import j\n"
    assert {name for _, name in _imports(text)} == {"a.b", "d.e", "g", "h.i.j"}
    assert within("prefect.client", "prefect")
    assert not within("prefect_sqlalchemy", "prefect")
