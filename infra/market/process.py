"""A market in a process of its own, for tests, benchmarks and the local stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from closingbell.errors import FatalError
from infra.market.door import SideDoor

_ROOT = Path(__file__).resolve().parents[2]


class MarketProcess(SideDoor):
    """A running market on a free loopback port. Use it with ``with``, or call :meth:`stop`.

    It ends with this process, even when this process is killed.

    Args:
        size, seed, replay, now, quota, window, count_429, retry_after, keys, entitled, history_years,
            publish_delay, ranges, status: as in :class:`infra.market.config.Config`; ``quota`` is a rate such
            as ``5/min``. What is left out has its default there, except ``size``.
        port: 0 picks a free one.
        timeout: seconds it may take until it answers.

    Raises:
        FatalError: it did not start; the message has what it said.
    """

    def __init__(
        self,
        *,
        size: int = 2_000,
        seed: int | None = None,
        replay: Path | str | None = None,
        now: datetime | str | None = None,
        quota: str | None = None,
        window: str | None = None,
        count_429: bool | None = None,
        retry_after: bool | None = None,
        keys: tuple[str, ...] = (),
        entitled: tuple[str, ...] | None = None,
        history_years: float | None = None,
        publish_delay: float | None = None,
        ranges: str | None = None,
        status: str | None = None,
        port: int = 0,
        timeout: float = 60.0,
    ) -> None:
        options: dict[str, Any] = {
            "--port": port,
            "--size": size,
            "--seed": seed,
            "--replay": replay,
            "--now": now.isoformat() if isinstance(now, datetime) else now,
            "--quota": quota,
            "--window": window,
            "--entitled": ",".join(entitled) if entitled is not None else None,
            "--history-years": history_years,
            "--publish-delay": publish_delay,
            "--ranges": ranges,
            "--status": status,
            "--parent": os.getpid(),
        }
        args = [f"{name}={value}" for name, value in options.items() if value is not None]
        args += [f"--key={key}" for key in keys]
        for name, flag in (("count-429", count_429), ("retry-after", retry_after)):
            args += [] if flag is None else [f"--{name}" if flag else f"--no-{name}"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._child = subprocess.Popen(  # noqa: S603  # our own module, no shell
            [sys.executable, "-m", "infra.market", "--json", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            self.settings: dict[str, Any] = self._read_line(timeout)
            super().__init__(self.settings["url"])
            self._await_health(timeout)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def poll(self) -> int | None:
        """The exit status, -n if signal n ended it; None while it runs."""
        return self._child.poll()

    def stop(self) -> None:
        """End it; does nothing the second time."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(5)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self._child.stdout:
            self._child.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read_line(self, timeout: float) -> dict[str, Any]:
        lines: list[bytes] = []
        stdout = self._child.stdout
        reader = threading.Thread(target=lambda: lines.append(stdout.readline() if stdout else b""), daemon=True)
        reader.start()
        reader.join(timeout)
        if not lines or not lines[0].strip():
            raise self._failed()
        settings: dict[str, Any] = json.loads(lines[0])
        return settings

    def _await_health(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                if self.health()["ready"]:
                    return
            except OSError:
                if self._child.poll() is not None or time.monotonic() > deadline:
                    raise self._failed() from None
                time.sleep(0.01)

    def _failed(self) -> FatalError:
        if self._child.poll() is None:
            self._child.kill()
        code = self._child.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return FatalError(
            "the stand-in market did not start", value=f"exit code {code}", fix=said or "It said nothing."
        )


def start(**settings: Any) -> MarketProcess:
    """A running market; the settings are those of :class:`MarketProcess`."""
    return MarketProcess(**settings)
