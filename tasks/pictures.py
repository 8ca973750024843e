"""The coverage of what a run was asked for, as an artifact of the run."""

from __future__ import annotations

import logging
from base64 import b64encode
from typing import Final

from prefect.artifacts import create_markdown_artifact

from closingbell.night import Night, Part
from closingbell.pictures.coverage import Coverage, of_standing
from closingbell.store.pictured import standing
from tasks.endurance import put_artifact
from tasks.resources import Resources

log = logging.getLogger("closingbell.pictures")

#: Bytes of all pictures of a run: an artifact is a row in Prefect's database, and base64 makes it a third larger.
_BYTES: Final = 60_000

#: The largest map of cells, in points, so that Prefect's page need not shrink it; it is made smaller until it fits.
_WIDTH, _HEIGHT = 580, 480

#: A cell's width and height at least, in points: what failed is to be seen at a glance.
_LEAST: Final = 2


def put_coverage(resources: Resources, night: Night) -> None:
    """Put the picture on the run. A night is worth more than its picture: whatever goes wrong is logged, not raised."""
    try:
        text = coverage(resources, night)
    except Exception as error:  # noqa: BLE001  (see above)
        log.warning("the run has no picture of its coverage: %s", type(error).__name__)
        return
    put_artifact(create_markdown_artifact, text, key="coverage")


def coverage(resources: Resources, night: Night) -> str:
    """The pictures of a run's timeframes, as Markdown; empty if it was asked for no cell.

    Cells are as the ledger has them: the run has just held every one of them against the bars.
    """
    shown = []
    parts = [part for part in night.parts if any(grid.count for grid in part.grids.values())]
    for part in parts:
        found = _read(resources, part)
        told = [f"- {count:,} {name}" for name, count in found.counts.items() if count]
        shown.append(f"## {found.title}\n\n{_image(found, _BYTES // len(parts))}\n\n" + "\n".join(told))
    return "\n\n".join(shown)


def _read(resources: Resources, part: Part) -> Coverage:
    grids = [grid for grid in part.grids.values() if grid.count]
    tickers = [ticker for grid in grids for ticker in grid.tickers]
    first = min(grid.sessions[0].item() for grid in grids)
    last = max(grid.sessions[-1].item() for grid in grids)
    source, timeframe = part.source, part.timeframe
    found = standing(resources.store.engine, source, timeframe, tickers, first, last, verified=False)
    return of_standing(found, source, timeframe, resources.clock.now(), verified=False, asked=grids)


def _image(found: Coverage, limit: int) -> str:
    """The picture in the text itself: Prefect's UI then asks nobody for it."""
    width, height = _WIDTH, _HEIGHT
    png = found.png(width=width, height=height, scale=1, least=_LEAST)
    while len(png.data) > limit and width > 100:
        width, height = width * 2 // 3, height * 2 // 3
        png = found.png(width=width, height=height, scale=1, least=_LEAST)
    alt = "".join(c for c in png.alt if c not in "[]\\")
    return f"![{alt}](data:image/png;base64,{b64encode(png.data).decode()})"
