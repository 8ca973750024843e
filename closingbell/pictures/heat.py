"""The heat map: an array of states as pixels of exactly their colours, with the names of rows and columns.

A picture has a few colours, so it is built as a palette image: small, exact, and drawn in milliseconds, without the
library that draws charts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from closingbell.pictures.png import Png
from closingbell.pictures.states import CELLS, CODES, STATES
from closingbell.text import visible

#: Points: size of the text, of the title, a line's height, the margin, how large a cell may get.
_SIZE: Final = 12
_TITLE: Final = 16
_LINE: Final = 18
_MARGIN: Final = 14
_WIDEST, _HIGHEST = 26, 20

#: Points that the names of tickers may take, and that a date takes.
_NAMES: Final = 150
_DATE: Final = 76

#: The narrowest picture, for the title and the legend.
_LEAST: Final = 640

#: The palette: the states, then grey from black to white for texts.
_GREYS: Final = 64
_FIRST_GREY: Final = len(STATES)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the cells are in a heat map, in its pixels.

    Attributes:
        left: of the first column.
        top: of the first row.
        cell_width: of a point of the map.
        cell_height: the same.
        sessions: how many sessions a point stands for.
        tickers: how many tickers it stands for.
    """

    left: int
    top: int
    cell_width: int
    cell_height: int
    sessions: int
    tickers: int

    def centre(self, row: int, column: int) -> tuple[int, int]:
        """The pixel, x and y, in the middle of the point that shows a cell."""
        x, y = column // self.sessions, row // self.tickers
        return (
            self.left + x * self.cell_width + self.cell_width // 2,
            self.top + y * self.cell_height + self.cell_height // 2,
        )


def worst(states: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """The worst state of each block of so many rows and columns; the last blocks may have fewer."""
    if rows > 1:
        states = np.maximum.reduceat(states, np.arange(0, states.shape[0], rows), axis=0)
    if columns > 1:
        states = np.maximum.reduceat(states, np.arange(0, states.shape[1], columns), axis=1)
    return states


def heat_map(
    states: NDArray[np.uint8],
    tickers: Sequence[str],
    sessions: NDArray[np.datetime64],
    title: str,
    subtitle: str,
    counts: Mapping[str, int],
    *,
    width: int,
    height: int,
    scale: int,
    least: int = 1,
) -> tuple[Png, Geometry]:
    """Draw a heat map: a row for each ticker, a column for each session, as far as there is room.

    Where there is not, a point of the map stands for several, and shows the worst state of them.

    Args:
        states: shape (n, m), positions in :data:`closingbell.pictures.states.STATES`.
        tickers: n names, shown with what could act in them made visible.
        sessions: shape (m,), datetime64[D].
        title: in large letters.
        subtitle: below it.
        counts: of each state, for the legend.
        width: points for the cells at most.
        height: the same.
        scale: pixels a point.
        least: the width and height of a cell at least; points.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows, columns = states.shape
    per_row, per_column = -(-max(rows, 1) // (height // least)), -(-max(columns, 1) // (width // least))
    points = worst(states, per_row, per_column) if states.size else states
    cell_w = min(max(width // max(points.shape[1], 1), 1), _WIDEST)
    cell_h = min(max(height // max(points.shape[0], 1), 1), _HIGHEST)
    font = ImageFont.load_default(_SIZE * scale)
    large = ImageFont.load_default(_TITLE * scale)

    names = [visible(ticker) for ticker in tickers[::per_row]]
    every = -(-(_LINE - 3) // cell_h)
    shown = {i: _cut(name, font, _NAMES * scale) for i, name in enumerate(names) if i % every == 0}
    left = _MARGIN + int(max((font.getlength(name) for name in shown.values()), default=0) / scale) + 8
    notes = [subtitle]
    if per_row > 1 or per_column > 1:
        notes.append(f"A point is {_of(per_row, 'ticker')} by {_of(per_column, 'session')} and shows the worst of them")
    top = _MARGIN + 24 + _LINE * len(notes) + 8
    map_w, map_h = points.shape[1] * cell_w, points.shape[0] * cell_h
    whole_w = max(left + map_w + _MARGIN, _LEAST)
    legend = _legend(counts, font, scale, whole_w - 2 * _MARGIN)
    legend_top = top + map_h + (_LINE + 12 if map_w else 0)
    whole_h = legend_top + _LINE * (1 + max(line for line, _, _, _ in legend)) + _MARGIN

    texts = Image.new("L", (whole_w * scale, whole_h * scale), 255)
    draw = ImageDraw.Draw(texts)
    draw.text((_MARGIN * scale, _MARGIN * scale), title, 0, large)
    for i, note in enumerate(notes):
        draw.text((_MARGIN * scale, (_MARGIN + 24 + _LINE * i) * scale), note, 70, font)
    if not states.size:
        draw.text((_MARGIN * scale, top * scale), "Nothing is stored yet: closingbell ingest", 0, font)
    for i, name in shown.items():
        middle = (top + i * cell_h + cell_h / 2) * scale
        draw.text(((left - 6) * scale, middle), name, 40, font, anchor="rm")
    for x, text in _dates(sessions, per_column, cell_w):
        if x and left + x + _DATE - 10 > whole_w:
            continue  # it would be cut off
        at = (left + x) * scale
        foot = (top + map_h) * scale
        draw.line([(at, foot), (at, foot + 4 * scale)], 120, scale)
        draw.text((at, foot + 5 * scale), text, 40, font, anchor="la")
    for line, x, _, text in legend:
        draw.text(((_MARGIN + x + 18) * scale, (legend_top + line * _LINE) * scale), text, 30, font)

    pixels = (_FIRST_GREY + (np.asarray(texts, np.uint16) * (_GREYS - 1) + 127) // 255).astype(np.uint8)
    for line, x, code, _ in legend:
        y = legend_top + line * _LINE + 1
        _box(pixels, (_MARGIN + x) * scale, y * scale, 12 * scale, code, scale)
    geometry = Geometry(left * scale, top * scale, cell_w * scale, cell_h * scale, per_column, per_row)
    large_map = points.repeat(geometry.cell_height, axis=0).repeat(geometry.cell_width, axis=1)
    if cell_w > 5 and cell_h > 5:  # with a line between them, cells can be counted
        large_map[geometry.cell_height - 1 :: geometry.cell_height] = 0
        large_map[:, geometry.cell_width - 1 :: geometry.cell_width] = 0
    pixels[geometry.top : geometry.top + large_map.shape[0], geometry.left : geometry.left + large_map.shape[1]] = (
        large_map
    )
    _frame(pixels, geometry, large_map.shape, scale)
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing is stored"
    alt = f"{title}. {subtitle}. Cells by state: {told}."
    return Png(_encoded(pixels), whole_w, whole_h, alt), geometry


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    image = Image.fromarray(pixels, "L").copy()
    image.putpalette(_palette())
    out = BytesIO()
    image.save(out, "PNG")  # several times as fast as optimized, and a tenth larger
    return out.getvalue()


def _palette() -> list[int]:
    greys = [round(255 * i / (_GREYS - 1)) for i in range(_GREYS)]
    return [part for state in STATES for part in state.colour] + [grey for grey in greys for _ in range(3)]


def _of(count: int, word: str) -> str:
    return f"1 {word}" if count == 1 else f"up to {count:,} {word}s"


def _cut(text: str, font: Any, width: float) -> str:
    """A name as far as there is room; the end of a ticker tells more than its middle."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: kept - kept // 3]}...{text[len(text) - kept // 3 :]}"
        if font.getlength(short) <= width:
            return short
    return "..."


def _legend(counts: Mapping[str, int], font: Any, scale: int, width: int) -> list[tuple[int, int, int, str]]:
    """Line, x in points, code and text of each state that there is, or that one would look for."""
    found: list[tuple[int, int, int, str]] = []
    line, x = 0, 0
    for state in CELLS:
        text = f"{state.name} {counts.get(state.name, 0):,}"
        takes = 18 + int(font.getlength(text) / scale) + 20
        if x and x + takes > width:
            line, x = line + 1, 0
        found.append((line, x, CODES[state.name], text))
        x += takes
    return found


def _dates(sessions: NDArray[np.datetime64], per_column: int, cell_w: int) -> list[tuple[int, str]]:
    """Where dates stand below the map, in points from its left, and what they say: first sessions of a period."""
    found: list[tuple[int, str]] = []
    starts = sessions[::per_column]
    if not len(starts):
        return found
    periods: list[tuple[NDArray[Any], str]] = [
        (np.arange(len(starts)), "%Y-%m-%d"),
        ((starts.astype("M8[D]").astype(np.int64) + 3) // 7, "%Y-%m-%d"),
        (starts.astype("M8[M]").astype(np.int64), "%Y-%m"),
        (starts.astype("M8[M]").astype(np.int64) // 3, "%Y-%m"),
        (starts.astype("M8[Y]").astype(np.int64), "%Y"),
        (starts.astype("M8[Y]").astype(np.int64) // 5, "%Y"),
    ]
    for period, form in periods:
        begins = np.flatnonzero(np.diff(period, prepend=period[0])).tolist()
        begins = begins if period[-1] > period[0] else []
        if form == "%Y-%m-%d":
            begins = [0, *begins]
        whole = np.diff(np.array(begins)) * cell_w
        if len(begins) == 1 or (len(begins) > 1 and np.median(whole) >= _DATE):
            break
    else:
        begins, form = [0], "%Y-%m-%d"
    last = -_DATE
    for i in begins:
        if i * cell_w - last >= _DATE:
            last = i * cell_w
            found.append((last, starts[i].item().strftime(form)))
    return found


def _box(pixels: NDArray[np.uint8], x: int, y: int, size: int, code: int, scale: int) -> None:
    pixels[y : y + size, x : x + size] = _FIRST_GREY + _GREYS // 2
    pixels[y + scale : y + size - scale, x + scale : x + size - scale] = code


def _frame(pixels: NDArray[np.uint8], at: Geometry, shape: tuple[int, ...], scale: int) -> None:
    """A thin line around the map: what was never asked for is nearly white."""
    if not shape[0] or not shape[1]:
        return
    y0, x0, y1, x1 = at.top - scale, at.left - scale, at.top + shape[0], at.left + shape[1]
    grey = _FIRST_GREY + _GREYS // 2
    pixels[y0 : at.top, x0 : x1 + scale] = grey
    pixels[y1 : y1 + scale, x0 : x1 + scale] = grey
    pixels[y0 : y1 + scale, x0 : at.left] = grey
    pixels[y0 : y1 + scale, x1 : x1 + scale] = grey
