"""Runs of the real flows, in a thread of this process or as the command in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from closingbell.calendar import calendar_for
from infra.market.process import MarketProcess
from tests.night.command import start
from tests.soak.world import night_after

#: Seconds after which a run is taken for one that hangs, and after which one that was told to end is.
LONGEST: Final = 150.0
LAST: Final = 45.0


@dataclass(frozen=True)
class Kill:
    """How a process ends before its time.

    Attributes:
        calls: after so many more calls have reached the market...
        seconds: ...and so much later.
        by: SIGKILL, or SIGINT as Ctrl-C sends it.
    """

    calls: int
    seconds: float
    by: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.by.name} after {self.calls} calls and {self.seconds:.2f} s"


@dataclass(frozen=True)
class Ask:
    """What a run is asked for.

    Attributes:
        flow: ``ingest``, ``retry`` or ``reconcile``.
        tickers: whose bars; none for a retry.
        start: first date; None is as for the nightly.
        end: the last session that is due.
        recheck: sessions to fetch again.
        batch_size: calls in a task.
        after: seconds to wait first, so that runs overlap in all ways.
        process: whether it is the command, in a process of its own.
        kill: how that ends.
    """

    flow: str
    tickers: tuple[str, ...]
    start: date | None
    end: date
    recheck: int = 0
    batch_size: int = 25
    after: float = 0.0
    process: bool = False
    kill: Kill | None = None

    def __str__(self) -> str:
        what = {"ingest": "nightly" if self.start is None else "manual", "retry": "retry all"}.get(self.flow, self.flow)
        of = f" {len(self.tickers)}" if self.flow != "retry" else ""
        since = f" since {self.start}" if self.start and self.flow == "ingest" else ""
        how = " as a process" if self.process else ""
        return f"{what}{of}{since}{how}{f', {self.kill}' if self.kill else ''}"

    @property
    def first(self) -> date:
        """The first date that it asks for; the nightly's is two years back."""
        return self.start or calendar_for("stocks").default_start(night_after(self.end))

    def within(self, known: Mapping[str, tuple[date, date]]) -> bool:
        """Whether the nightly will come by all that it asks for, as all of these spans reach as far back."""
        return all(ticker in known and known[ticker][0] <= self.first for ticker in self.tickers)

    def parameters(self) -> dict[str, Any]:
        """As the flow takes them."""
        if self.flow == "retry":
            return {"run_id": "all", "batch_size": self.batch_size}
        dates = {"tickers": list(self.tickers), "start": self.start, "batch_size": self.batch_size}
        return {**dates, "sample": 2} if self.flow == "reconcile" else {**dates, "recheck_sessions": self.recheck}

    def arguments(self) -> list[str]:
        """As the command takes them."""
        size = ["--batch-size", str(self.batch_size)]
        if self.flow == "retry":
            return ["retry", "all", *size]
        dates = ["-t", ",".join(self.tickers), *(["--start", str(self.start)] if self.start else []), *size]
        if self.flow == "reconcile":
            return ["reconcile", *dates, "--sample", "2"]
        return ["ingest", *dates, "--recheck-sessions", str(self.recheck)]


@dataclass
class Ran:
    """What came of a run.

    Attributes:
        ask: what it was asked for.
        may_stop: whether a fault of the night may have made it stop.
        run_id: None where nobody knows.
        report: its file; None where it left none.
        state: the type of its final state in Prefect; None for a process.
        exit_code: of a process.
        words: what it said last.
        killed: whether it was made to end.
        hung: whether it did not end.
        seconds: how long it took.
    """

    ask: Ask
    may_stop: bool = False
    run_id: UUID | None = None
    report: dict[str, Any] | None = None
    state: str | None = None
    exit_code: int | None = None
    words: str = ""
    killed: bool = False
    hung: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        return str(self.ask)

    @property
    def ended(self) -> bool:
        """Whether it came to its end, cells or none."""
        return self.report is not None and "error" not in self.report

    @property
    def outcome(self) -> str:
        """How it ended, in a word."""
        if self.hung:
            return "hangs"
        if self.killed:
            return "killed"
        if self.report is None:
            return "not started"
        return "stopped" if "error" in self.report else str(self.report["state"])

    @property
    def last_words(self) -> str:
        """Why it stopped, or what it said last."""
        return str(self.report["error"]) if self.report and "error" in self.report else self.words

    def cells(self) -> list[tuple[str, date]]:
        """What it was asked for, cell by cell; nothing of a retry or a comparison, which ask for what is known."""
        if self.ask.flow != "ingest" or self.report is None:
            return []
        days = calendar_for("stocks").sessions(date.fromisoformat(self.report["asked"]["start"]), self.ask.end).tolist()
        return [(ticker, day) for ticker in self.ask.tickers for day in days]


@dataclass
class Runner:
    """Runs what is asked, all at once.

    Attributes:
        home: where the reports are.
        market: whose calls a kill waits for.
        environment: the settings, for processes; threads have the same in their own environment.
    """

    home: Path
    market: MarketProcess
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, asks: tuple[Ask, ...]) -> list[Ran]:
        """Run them, and wait until all are over."""
        ran = [Ran(ask) for ask in asks]
        threads = [
            threading.Thread(target=copy_context().run, args=(self._one, one), name=str(one.ask), daemon=True)
            for one in ran
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + LONGEST
        for one, thread in zip(ran, threads, strict=True):
            thread.join(max(deadline - time.monotonic(), 0.01))
            one.hung |= thread.is_alive()
        return ran

    def _one(self, ran: Ran) -> None:
        time.sleep(ran.ask.after)
        begun = time.monotonic()
        try:
            if ran.ask.process:
                self._process(ran)
            else:
                self._flow(ran)
        except subprocess.TimeoutExpired:
            ran.hung = True
        except Exception as error:  # noqa: BLE001  (what a flow lets out is for the oracle to judge)
            ran.words = f"{type(error).__name__}: {error}"
        ran.seconds = time.monotonic() - begun
        path = self.home / "runs" / f"{ran.run_id}.json"
        if ran.run_id and path.exists():
            ran.report = json.loads(path.read_text())

    def _flow(self, ran: Ran) -> None:
        from flows.ingest import ingest
        from flows.reconcile import reconcile
        from flows.retry_failed import retry_failed

        flow: Any = {"ingest": ingest, "retry": retry_failed, "reconcile": reconcile}[ran.ask.flow]
        state = flow(**ran.ask.parameters(), return_state=True)
        ran.run_id, ran.state, ran.words = state.state_details.flow_run_id, state.type.value, str(state.message)

    def _process(self, ran: Ran) -> None:
        before = len(self.market.calls())
        process = start(self.environment, *ran.ask.arguments())
        kill = ran.ask.kill
        if kill is not None:
            while len(self.market.calls()) < before + kill.calls and process.poll() is None:
                time.sleep(0.01)
            try:
                process.wait(kill.seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(kill.by)
                ran.killed = True
        out, errors = process.communicate(timeout=LAST if ran.killed else LONGEST)
        ran.exit_code, ran.words = process.returncode, errors[-2000:]
        if out.strip():
            told = json.loads(out)
            ran.run_id = UUID(told["run_id"]) if "run_id" in told else None
            ran.words = told.get("error") or told.get("message") or ran.words
