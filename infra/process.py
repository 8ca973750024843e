"""Child processes that start with a log, say when they are ready, and never outlive this process.

Each child runs on a leash (:mod:`infra.leash`) whose other end is a pipe held here. However this process ends,
``kill -9`` included, the kernel closes the pipe and the child is told to stop, with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from closingbell.errors import FatalError
from infra import leash

_TAIL: Final = 2000
_LOG_BYTES: Final = 10_000_000


class Child:
    """One child process; usable as a context manager, which starts and stops it.

    Args:
        name: what it is, for people.
        command: what to run; visible to every user of the machine, so never with a secret in it.
        log: the file that its output is added to; readable to this user only.
        env: its whole environment; None: this process's own.
        cwd: the directory it runs in; None: this process's own.
        grace: seconds it may take to end before it is killed.
        outlived: whether what it started may outlive it, until :meth:`stop`, when it ends by itself.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace: float = 10.0,
        outlived: bool = False,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = dict(os.environ if env is None else env)
        self.cwd = cwd
        self.grace = grace
        self.outlived = outlived
        self._status: int | None = None
        self._report: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the child; it may not be ready yet.

        Raises:
            FatalError: the log cannot be written, or no process can be made.
        """
        command = [sys.executable, "-I", "-S", str(Path(leash.__file__).resolve()), "--grace", f"{self.grace:g}"]
        told: list[int] = []
        self._status = None
        try:
            if self.outlived:
                self._report, writer = os.pipe()
                os.set_blocking(self._report, False)
                told.append(writer)
                command += ["--report", str(writer)]
            self.log.parent.mkdir(parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            self.log.touch(mode=0o600)
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(  # noqa: S603 - the command is our caller's own
                    [*command, "--", *self.command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=self.env,
                    cwd=self.cwd,
                    pass_fds=told,
                    start_new_session=True,  # a terminal's Ctrl-C is for us; we stop things in order
                )
        except OSError as error:
            raise FatalError(
                f"{self.name} cannot be started", value=error, fix=f"Check {self.log.parent} and the machine's limits."
            ) from None
        finally:
            for writer in told:
                os.close(writer)

    def poll(self) -> int | None:
        """The exit status, 128 + n if signal n ended it; None while it runs or before it started."""
        if self._status is None and self._report is not None:
            with contextlib.suppress(BlockingIOError):
                self._status = int(os.read(self._report, 16) or b"-1")
        if self._status is not None and self._status >= 0:
            return self._status
        return self._process.poll() if self._process else None

    def ended(self) -> str | None:
        """How it ended, for people; None while it runs or before it started."""
        status = self.poll()
        return None if status is None else how_it_ended(status)

    def output(self) -> str:
        """The end of what it has written since it was started."""
        return self._written()[-_TAIL:].decode(errors="replace").strip()

    def said(self, text: str) -> bool:
        """Whether it has written this since it was started."""
        return text.encode() in self._written()

    def _written(self) -> bytes:
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read()
        except OSError:
            return b""

    def wait(self, seconds: float) -> int:
        """Wait until it ends by itself; returns its exit status.

        Raises:
            FatalError: it still runs after ``seconds``.
        """
        self.wait_ready(lambda: self.poll() is not None, seconds, ends=True)
        status = self.poll()
        return 0 if status is None else status

    def wait_ready(self, ready: Callable[[], bool], seconds: float, *, ends: bool = False) -> None:
        """Return as soon as ``ready()`` is true.

        Args:
            ready: asked again and again; it returns quickly and does not raise.
            seconds: how long to ask.
            ends: whether the child may end meanwhile without that being a failure.

        Raises:
            FatalError: the child ended, or is not ready in time; the message ends with its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            status = self.poll()
            if (status is not None and not ends) or time.monotonic() > deadline:
                how = f"did not get ready in {seconds:g} s" if status is None else how_it_ended(status)
                raise FatalError(
                    f"{self.name} {how}", value=f"its log {self.log} ends with\n{self.output()}\n", fix="See the log."
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Tell it to end and wait until it and all that it started are gone."""
        stop([self])

    def let_go(self) -> None:
        """Tell it to end; :meth:`stop` waits for that."""
        if self._process and self._process.stdin:
            self._process.stdin.close()

    def reap(self) -> None:
        """Wait for the end that :meth:`let_go` asked for; the leash kills the child when its grace is over."""
        if self._process is None:
            return
        try:
            self._process.wait(3 * self.grace + 5)
        except subprocess.TimeoutExpired:  # the kernel then signals the child too
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._report is not None:
            os.close(self._report)
            self._report = None


def how_it_ended(status: int) -> str:
    """An exit status in words; 128 + n says that signal n ended it."""
    if status <= 128:
        return f"ended with status {status}"
    return "was killed" if status == 128 + signal.SIGKILL else f"was ended by signal {status - 128}"


def stop(children: Iterable[Child]) -> None:
    """Stop several children at once; what another needs comes later in the list only by its own patience."""
    together = list(children)
    for child in together:
        child.let_go()
    for child in together:
        child.reap()
