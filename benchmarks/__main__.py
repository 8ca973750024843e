"""All benchmarks, or those that are named; what they measured goes to ``benchmarks/RESULTS.md``.

    python -m benchmarks [--quick] [NAME ...]

A benchmark is a module here with ``measure(*, quick: bool) -> list[Table]``. The file keeps what it says of the
others; a quick measurement is only printed. The quota's needs half an hour: ``python -m benchmarks.limiter``.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Final

import click

from benchmarks.report import Table, machine, section, write

#: In the order of the file.
NAMES: Final = ("writes", "oracle", "runs", "memory", "planner", "decode", "adjusted", "reading", "events", "growth")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="A tenth of the work, to see that it runs; nothing is written down.")
def main(names: Sequence[str], quick: bool) -> None:
    """Measure, print, and write benchmarks/RESULTS.md."""
    print(machine(), flush=True)
    for name in names or NAMES:
        measure: Callable[..., list[Table]] = importlib.import_module(f"benchmarks.{name}").measure
        begun = time.monotonic()
        tables = measure(quick=quick)
        if not tables:
            print(f"\n{name}: nothing here to measure it on", flush=True)
            continue
        told = section(name, tables, time.monotonic() - begun)
        print(f"\n{told}", flush=True)
        if not quick:
            write({name: told})


if __name__ == "__main__":
    main()
