"""What ``closingbell doctor`` finds: each with what it means for a run, and what to do about it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

from closingbell.errors import ClosingbellError
from closingbell.exits import CANNOT_RUN, CELLS_FAILED, OK

if TYPE_CHECKING:
    from closingbell.settings import Settings
    from closingbell.store import Reconciliation

#: How many cells of a kind are named.
_SHOWN: Final = 10

#: Bytes on the home's disk below which a person should know.
_LITTLE: Final = 2**30

#: So long before the partitions run out a person should know.
_YEAR: Final = timedelta(days=365)

#: What a vendor's key looks like; what does not is more often a slip of the clipboard than a key.
_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{8,}")

#: ``ok``; ``warning``: runs go on; ``mend``: the next run mends it; ``error``: no run can go on.
Level = Literal["ok", "warning", "mend", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, a word.
        told: what was found.
        level: what it means.
        fix: what to do; empty when it is ok.
        details: further lines, for people.
    """

    check: str
    told: str
    level: Level = "ok"
    fix: str = ""
    details: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """It, for people: what was checked where it is well, else what it means."""
        if self.level == "ok":
            yield f"{self.check:<9} {self.told}" if self.check == "ledger" else f"{self.check:<9} ok: {self.told}"
        else:
            yield f"{self.level:<9} {self.told}" + (f". {self.fix}" if self.fix else "")
        yield from (f"          {line}" for line in self.details)


def failed(check: str, error: ClosingbellError) -> Finding:
    """An error of ours as a finding."""
    value = "" if error.value is None else f": {error.value}"
    return Finding(check, f"{error.what}{value}", "error", error.fix)


def of_settings(settings: Settings) -> Iterator[Finding]:
    """The settings, the home and the keys, without asking anybody."""
    market = "the stand-in market" if settings.uses_stand_in else settings.polygon_base_url
    yield Finding("settings", f"{settings.quotas}, {market}")
    yield from (_warned(warning) for warning in settings.warnings)
    yield _home(settings)
    yield _key(settings)
    if settings.databento_api_key and find_spec("databento") is None:
        fix = "Install the extra: pip install 'closingbell[databento]'."
        yield Finding("key", "DATABENTO_API_KEY is set, but Databento's client is not installed", "warning", fix)


def _warned(warning: str) -> Finding:
    told, _, fix = warning.partition(". ")
    return Finding("settings", told, "warning", fix)


def _home(settings: Settings) -> Finding:
    """Whether ``CLOSINGBELL_HOME`` can be written; it is not made here."""
    home = settings.closingbell_home
    there = next(path for path in (home, *home.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = "Make it a directory that you may write, or set CLOSINGBELL_HOME elsewhere."
        return Finding("home", f"CLOSINGBELL_HOME cannot be written: {home}", "error", fix)
    free = shutil.disk_usage(there).free
    told = f"{home}, {free / 2**30:,.1f} GB free"
    if free < _LITTLE:
        return Finding("home", f"the disk is almost full: {told}", "warning", "Free some space.")
    return Finding("home", told)


def _key(settings: Settings) -> Finding:
    """Whether the vendor's key looks like one; whether it is accepted only a call can tell."""
    if settings.polygon_api_key is None:
        return Finding("key", "none is set, and the stand-in market needs none")
    if not _KEY.fullmatch(settings.polygon_api_key.get_secret_value()):
        fix = "Copy it once more from the vendor's site: letters and digits, no quotes, no blanks."
        return Finding("key", "POLYGON_API_KEY does not look like a key", "warning", fix)
    return Finding("key", "POLYGON_API_KEY is set; doctor --call asks whether the vendor accepts it")


def of_partitions(prepared_until: date | None, today: date) -> Iterator[Finding]:
    """Whether the partitions of the bars' table last for another year.

    Args:
        prepared_until: from when on bars share one partition; None: it has none, or needs none.
        today: the present day.
    """
    if prepared_until and prepared_until < today + _YEAR:
        told = f"bars from {prepared_until} on share one partition, which grows without end"
        fix = "As the owner of the tables: python -m infra.migrations"
        yield Finding("database", told, "warning", fix)


def of_ledger(found: Mapping[tuple[str, str], Reconciliation], splits: Mapping[str, int]) -> Iterator[Finding]:
    """Each ledger, what is wrong in it with the first cells by name, and splits that were lost or added by hand.

    Args:
        found: by source and timeframe.
        splits: by source, how many splits fewer there are than after the last look; negative: more.
    """
    for (source, timeframe), sums in found.items():
        yield Finding("ledger", f"{source} {timeframe}: {sums}")
    for (source, timeframe), sums in found.items():
        if sums.damage:
            details = (
                *_damaged(sums),
                "next      closingbell retry all: mends the ledger, asks for exactly these cells",
            )
            yield Finding("ledger", f"{source} {timeframe}: {sums.damage}", "mend", details=details)
    for source, count in splits.items():
        what = "lost" if count > 0 else "added"
        told = f"{source}: {abs(count):,} splits {what} since the last look"
        yield Finding("splits", told, "mend", "The next run looks at all of them again")


def _damaged(sums: Reconciliation) -> Iterator[str]:
    wrong = sums.damage
    for what, cells in (("neither", wrong.lost), ("both", wrong.contradicted), ("no proof", wrong.unproven)):
        yield from (f"{what:<8} {ticker} {session}" for ticker, session in cells[:_SHOWN])
        if len(cells) > _SHOWN:
            yield f"{what:<8} and {len(cells) - _SHOWN:,} more: closingbell doctor --json"
    if wrong.orphans:
        names = list(wrong.orphans)
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        yield f"no watermark  {', '.join(names[:_SHOWN])}{more}"


def exit_code(findings: Iterable[Finding]) -> int:
    """2 when no run can go on, 1 when there is something to mend in what is stored, else 0."""
    levels = {finding.level for finding in findings}
    return CANNOT_RUN if "error" in levels else CELLS_FAILED if "mend" in levels else OK


def as_json(
    findings: Sequence[Finding], found: Mapping[tuple[str, str], Reconciliation], splits: Mapping[str, int]
) -> dict[str, Any]:
    """All of it, for a program: every check, and every damaged cell."""
    return {
        "ok": exit_code(findings) == OK,
        "checks": [{"check": one.check, "level": one.level, "told": one.told, "fix": one.fix} for one in findings],
        "splits_lost": dict(splits),
        "unexplained": {ticker: n for sums in found.values() for ticker, n in sums.unexplained.items()},
        "cells": sum(sums.expected for sums in found.values()),
        "damage": [
            {"source": source, "timeframe": timeframe, **asdict(sums.damage)}
            for (source, timeframe), sums in found.items()
            if sums.damage
        ],
    }
