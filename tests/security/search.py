"""Where a secret could turn up, all of it searched."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

#: A key and a password with characters that are written otherwise in URLs, in JSON and in shells. What is searched
#: for is the part that every way of writing leaves alone.
KEY_CORE, PASSWORD_CORE = "canaryK3yq7d1f", "canaryPa55zz81c0"
KEY, PASSWORD = f'{KEY_CORE}"%&+/', f"{PASSWORD_CORE}:@ %/'"

CORES = (KEY_CORE, PASSWORD_CORE)


#: How each of them could be written: as it is, in hexadecimal, in base64 wherever it begins in a group of three.
FORMS = [form for core in CORES for form in (core.lower(), core.encode().hex())]
BASE64 = [base64.b64encode((" " * pad + core).encode()).decode()[4:-4] for core in CORES for pad in range(3)]


def holds_secret(text: str) -> bool:
    """Whether a text has one of the secrets in any of these forms."""
    low = text.lower()
    return any(form in low for form in FORMS) or any(form in text for form in BASE64)


def found_in(name: str, text: str) -> list[str]:
    """Where the secret is in a text, with what stands around it; empty if it is not."""
    if not holds_secret(text):
        return []
    at = min((text.lower().find(core.lower()) for core in CORES if core.lower() in text.lower()), default=0)
    return [f"{name}: ...{text[max(0, at - 120) : at + 60]}..."]


def in_database(url: sa.URL | str) -> Iterator[str]:
    """Every row of every table of a database, whatever its columns are."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    patterns = {"forms": [f"%{form}%" for form in FORMS], "base64": [f"%{form}%" for form in BASE64]}
    with engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            quoted = engine.dialect.identifier_preparer.quote(table)
            query = f"SELECT x FROM (SELECT row_to_json(t)::text AS x FROM {quoted} t) AS r"  # noqa: S608
            where = "WHERE x ILIKE ANY(:forms) OR x LIKE ANY(:base64)"
            for (row,) in connection.execute(sa.text(f"{query} {where}"), patterns):
                yield from found_in(f"{engine.url.database}.{table}", row)


def in_files(*folders: Path) -> Iterator[str]:
    """Every file below the folders."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            with suppress(OSError):  # a socket, or gone
                if path.is_file():
                    yield from found_in(str(path), path.read_bytes().decode("latin-1"))


def in_values(name: str, values: Iterable[Any]) -> Iterator[str]:
    """Reports, calls, states: whatever JSON can say of them."""
    for value in values:
        yield from found_in(name, json.dumps(value, default=repr, ensure_ascii=False))
        yield from found_in(name, repr(value))


class ProcessList:
    """Watches the command lines of every process on the machine, as ``ps`` shows them; a context manager."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProcessList:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self.found.update(found_in("the process list", path.read_bytes().decode("latin-1")))
            self.looks += 1
