"""A stand-in that speaks Oracle's wire protocol, in a process of its own: the real driver logs in to it.

What it executes is H2 in its Oracle mode, in memory. It proves binds, transactions, cut connections and what statements
mean; not Oracle's optimizer, its storage, or each rule of its types.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest
import sqlalchemy as sa

#: The program, and the interpreter that has what it needs; ``.ci/run`` sets both.
PROGRAM, PYTHON = "CLOSINGBELL_ORACLE_STAND_IN", "CLOSINGBELL_ORACLE_STAND_IN_PYTHON"

_ENDS = 10  # seconds it may take to end

#: It lives for a minute: what compiles best costs more than it brings.
_SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


class Statement(NamedTuple):
    """One execute.

    Attributes:
        sql: its text.
        rows: how many rows of binds came with it; 0: none, as for a query that has been described only.
    """

    sql: str
    rows: int


def available() -> bool:
    """Whether there is one to be started."""
    return bool(os.environ.get(PROGRAM))


def need() -> None:
    """Skip the test where there is none."""
    if not available():
        pytest.skip(f"neither CLOSINGBELL_TEST_ORACLE_URL nor {PROGRAM} is set: no Oracle to test with, nor a stand-in")


class OracleStandIn:
    """Use it with ``with``; an empty database each time. Not for several threads at once.

    Attributes:
        url: the SQLAlchemy URL of its only user, who owns all that is in it.
    """

    def __init__(self) -> None:
        self.url = ""
        self._seen: list[Statement] = []
        self._errors = TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._process: subprocess.Popen[str] | None = None
        self._listeners: dict[str, Callable[..., None]] = {
            "before_cursor_execute": self._hurried,
            "after_cursor_execute": self._calm,
            "handle_error": self._calm_after,
        }

    def __enter__(self) -> Self:
        self._start("0")
        for event, listener in self._listeners.items():
            sa.event.listen(sa.Engine, event, listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for event, listener in self._listeners.items():
            sa.event.remove(sa.Engine, event, listener)
        self._end()
        self._errors.close()

    def _hurried(self, connection: sa.Connection, _: object, statement: str, *__: object) -> None:
        """It reads NOWAIT and waits all the same, three seconds: tell what is under it not to."""
        self._wait(connection, statement, 1)

    def _calm(self, connection: sa.Connection, _: object, statement: str, *__: object) -> None:
        self._wait(connection, statement, 3_000)

    def _calm_after(self, failed: sa.ExceptionContext) -> None:
        if failed.connection and failed.statement and not failed.is_disconnect:
            self._wait(failed.connection, failed.statement, 3_000)

    def _wait(self, connection: sa.Connection, statement: str, milliseconds: int) -> None:
        if statement.endswith("FOR UPDATE NOWAIT") and self._is_here(connection.engine):
            driver: Any = connection.connection
            driver.cursor().execute(f"SET LOCK_TIMEOUT {milliseconds}")

    def _is_here(self, engine: sa.Engine) -> bool:
        return engine.dialect.name == "oracle" and engine.url.port == sa.make_url(self.url).port

    def restart(self) -> None:
        """End it and start another one at the same URL: nothing is in it then, and nobody connected."""
        self._end()
        self._start(str(sa.make_url(self.url).port))

    def _start(self, port: str) -> None:
        self._process = subprocess.Popen(
            [os.environ.get(PYTHON) or sys.executable, "-B", os.environ[PROGRAM], "--port", port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "JAVA_TOOL_OPTIONS": _SHORT_LIVED},
            text=True,
        )
        self.url = self._line()

    def _end(self) -> None:
        process = self._process
        assert process
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.close()  # which ends it
            process.wait(_ENDS)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait()
        process.stdout.close()

    def kill(self, at: int = 1) -> None:
        """Cut the connection that makes the ``at``-th execute from now, before it is executed."""
        self._say(f"kill {at}")
        self._collect()  # it obeys line by line: what has answered the next one has done this one

    def log(self) -> list[Statement]:
        """What was executed since this was last asked, over all connections, in order."""
        self._collect()
        seen, self._seen = self._seen, []
        return seen

    def _collect(self) -> None:
        self._say("log")
        while "end" not in (line := json.loads(self._line())):
            self._seen.append(Statement(line["sql"], line["rows"]))

    def _say(self, line: str) -> None:
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        if not line:
            self._errors.seek(0)
            raise AssertionError(f"the stand-in for Oracle ended: {self._errors.read().decode(errors='replace')}")
        return line
