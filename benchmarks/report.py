"""Tables of measurements, and the file that keeps them: ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).with_name("RESULTS.md")

_HEAD: Final = """\
# Results

Written by `make bench`; do not edit. Each table was measured in one run, its rows side by side; ratios are medians of
the ratios of single rounds, so that what else the machine did hits both sides alike. Absolute numbers are this
machine's, ratios travel better.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured.

    Attributes:
        title: what the table is about.
        columns: their names.
        rows: a cell for each column; numbers are written with thousands separators, texts as they are.
        notes: what a reader has to know, a sentence each.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """The table as Markdown, its title a heading of the third level."""
        cells = [list(self.columns), *([cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        numeric = [all(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]
        ruler = [
            "-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, numeric, strict=True)
        ]
        lines = [_line(cells[0], widths, numeric), _line(ruler, widths, numeric)]
        lines += [_line(row, widths, numeric) for row in cells[1:]]
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"### {self.title}\n\n" + "\n".join(lines) + f"\n{notes}"


def cell(value: object) -> str:
    """A value as a table's cell: three digits that count, thousands separated, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios of what was measured side by side, round by round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def rounds(cases: Mapping[str, Callable[[], float]], count: int, *, warm_up: int = 0) -> dict[str, list[float]]:
    """Do every case once a round, each round in another order; what each returned, by round.

    Args:
        cases: each does its work and returns what it measured, for instance seconds.
        count: rounds that count.
        warm_up: rounds before those, which do not.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(-warm_up, count):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            measured = cases[name]()
            if number >= 0:
                found[name].append(measured)
    return found


def machine() -> str:
    """The machine and what ran on it, in one line."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    parts = [
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        f"{memory:.0f} GB",
        f"{platform.system()} {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        _postgres(),
    ]
    return ", ".join(parts)


def commit() -> str:
    """The commit that was measured, and whether files differed from it."""
    folder = RESULTS.parent.parent
    try:
        name = _said("git", "-C", str(folder), "rev-parse", "--short", "HEAD")
        changed = _said("git", "-C", str(folder), "status", "--porcelain", "--", ".", f":!{RESULTS.name}")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    changed = "\n".join(line for line in changed.splitlines() if not line.endswith(RESULTS.name))
    return f"{name} with changes" if changed else name


def section(name: str, tables: Sequence[Table], seconds: float) -> str:
    """What a module measured, with the machine, the day and the commit."""
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    head = f"## {name}\n\n{when}, commit {commit()}, {seconds:.0f} s. {machine()}.\n"
    return "\n".join([head, *(table.markdown() for table in tables)])


def write(sections: Mapping[str, str], path: Path = RESULTS) -> None:
    """Put sections into the file, in place of what it says of the same modules; the others stay."""
    found = path.read_text() if path.exists() else ""
    kept = {part.partition("\n")[0].strip(): f"## {part}" for part in re.split(r"^## ", found, flags=re.MULTILINE)[1:]}
    parts = {**kept, **sections}
    path.write_text("\n".join([_HEAD, *(text.strip() + "\n" for text in parts.values())]))


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _postgres() -> str:
    from infra import postgres  # only here: tables are of use without it

    return f"PostgreSQL {postgres.version()}"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # our words
