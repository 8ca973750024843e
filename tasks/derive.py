"""The pass of a run that makes coarser bars of stored minutes: no call, the same writer, the same ledger."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

import numpy as np
from prefect.logging import get_run_logger

from closingbell import derive
from closingbell.bars import Bars
from closingbell.cells import Cells
from closingbell.derive import Todo
from closingbell.errors import RunEndingError
from closingbell.night import Night, Part
from closingbell.outcome import Outcome
from closingbell.plan import Plan
from closingbell.report import Failure, Tally
from closingbell.resample import FINER
from closingbell.store import Store
from closingbell.store.derived import Making, known
from tasks.resources import Resources


def derive_all(run_id: UUID, night: Night, resources: Resources) -> tuple[Night, Tally]:
    """Make what the request wants made of minutes, now that they are stored.

    Cells whose minutes did not change since are not looked at again; of the others only bars that differ are written.

    Returns:
        The night with a part for each derived series, whose cells are those that the minutes' ledger accounts for; and
        what was changed.

    Raises:
        ConfigurationError: there are no minutes, and the run fetches none.
        ClosingbellError: the database cannot be read or written.
    """
    request, tally = night.request, Tally()
    if not request.derived:
        return night, tally
    begun = time.perf_counter()
    # Where minutes are fetched, also those before the start that were asked for once and are healed.
    asked = (part.grids for part in night.parts if part.timeframe == FINER)
    grids = next(asked, None) or dict(request.grids(night.now, timeframe=FINER))
    found: list[Part] = []
    for timeframe in request.derived:
        making = derive.making(request.source, timeframe)
        series = _Series(run_id, making, night.now, resources, tally)
        cells = {name: series.derive(grid) for name, grid in grids.items()}
        found.append(Part(making.made, timeframe, cells, dict.fromkeys(cells, Plan((), 0, 0.0)), {}))
        get_run_logger().info(series.told())
    if not any(grid.count for part in found for grid in part.grids.values()) and FINER not in request.timeframes:
        raise derive.nothing_stored(request.tickers, request.source)
    tally.spend("derive", time.perf_counter() - begun)
    return replace(night, parts=(*night.parts, *found)), tally


@dataclass(slots=True)
class _Series:
    """One derived series of a run, on its way into the database."""

    run_id: UUID
    making: Making
    now: datetime
    resources: Resources
    tally: Tally
    done: Counter[str] = field(default_factory=Counter)

    def derive(self, grid: Cells) -> Cells:
        """Make the cells of a grid, piece by piece; those of them that the minutes' ledger accounts for."""
        mask = np.zeros_like(grid.mask)
        row = {ticker: i for i, ticker in enumerate(grid.tickers)}
        for piece in derive.pieces(grid):
            if self.resources.stopped:
                raise RunEndingError("the run has to stop", value=self.resources.stopped.what)
            todo, sources = self._todo(piece)
            self._write(todo, sources)
            at = row[piece.tickers[0]], int(np.searchsorted(grid.sessions, piece.sessions[0]))
            mask[at[0] : at[0] + len(piece.tickers), at[1] : at[1] + len(piece.sessions)] = todo.known.mask
        return grid.only(mask)

    def told(self) -> str:
        """What was done, in a line."""
        done = self.done
        line = f"{self.making.coarser} made of {FINER}: {done['made']:,} of {done['known']:,} cells made"
        line += f", {done['inserted']:,} bars inserted, {done['rewritten']:,} rewritten"
        parts = {"gaps": "gaps copied", "gone": "bars taken out", "left": "cells left to bars from elsewhere"}
        return line + "".join(f", {done[name]:,} {words}" for name, words in parts.items() if done[name])

    def _todo(self, piece: Cells) -> tuple[Todo, Sequence[str]]:
        """What is to be done about a piece; and who else has bars of it."""
        first, last = piece.sessions[0].item(), piece.sessions[-1].item()
        found = known(self._store.engine, self.making, piece.tickers, first, last)
        todo = derive.todo(piece, found)
        counts = {"known": todo.known.count, "made": todo.make.count, "left": todo.left.count}
        self.done.update(counts | {"gaps": len(todo.gaps)})
        return todo, list(found.others)

    def _write(self, todo: Todo, sources: Sequence[str]) -> None:
        made = derive.outcomes(todo.make, self._bars(todo.make, self.making.source, FINER), self.making.coarser)
        touched = replace(todo.again, mask=todo.again.mask | todo.remove.mask)
        stored = self._bars(touched, self.making.made, self.making.coarser)
        self._take_out(derive.gone(stored, made, todo.again, todo.remove))
        outcomes = [*made, *derive.gaps_of(todo.gaps, self.making.coarser)]
        if todo.adopt.count:
            blocks = [self._bars(todo.adopt, source, self.making.coarser) for source in sources]
            outcomes += derive.adopted(todo.adopt, blocks)
        if outcomes:
            self._flush(outcomes)

    def _bars(self, wanted: Cells, source: str, timeframe: str) -> Bars:
        """The stored bars from the first to the last session wanted, of the tickers that are."""
        if not wanted.count:
            return Bars(wanted.tickers, timeframe=timeframe)
        sessions = wanted.sessions[wanted.mask.any(axis=0)]
        names = [wanted.tickers[i] for i in np.flatnonzero(wanted.mask.any(axis=1))]
        return self._store.records.series(source, timeframe, names, sessions[0].item(), sessions[-1].item())

    def _take_out(self, gone: Bars) -> None:
        rules = (derive.NO_MINUTES,) * len(gone)
        making = self.making
        out = self._store.writer.take_out(self.run_id, making.made, making.coarser, gone, rules, self.now)
        self.done["gone"] += len(out)

    def _flush(self, outcomes: list[Outcome]) -> None:
        begun = time.perf_counter()
        making, tally = self.making, self.tally
        result = self._store.writer.flush(self.run_id, making.made, making.coarser, outcomes, at=self.now)
        self.done.update({"inserted": result.inserted, "rewritten": result.rewritten})
        tally.add(Tally(inserted=result.inserted, rewritten=result.rewritten, gaps=result.gaps))
        tally.add(Tally(quarantined=result.quarantined, examples=result.examples))
        for ticker, said in result.refused.items():
            what = "the database does not take a ticker's derived bars"
            tally.failures.append(Failure(f"{ticker} {making.coarser}", what, "failed", 0, (ticker,), said))
        tally.spend("database", time.perf_counter() - begun)

    @property
    def _store(self) -> Store:
        return self.resources.store
