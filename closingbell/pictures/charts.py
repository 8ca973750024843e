"""What charts have in common: one sheet with a title, drawn without any state that threads would share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from closingbell.pictures.png import Png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def figure(title: str, subtitle: str, width: int, height: int, scale: int) -> Iterator[tuple[Figure, dict[str, float]]]:
    """A white sheet of a size in points, and where on it charts go.

    Texts are shown as they are: a ticker with a dollar sign is no formula.
    """
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(width / 100, height / 100), dpi=100 * scale, facecolor="white")
    sheet.text(14 / width, 1 - 26 / height, title, fontsize=12, parse_math=False)
    sheet.text(14 / width, 1 - 46 / height, subtitle, fontsize=8.5, color="#444444", parse_math=False)
    area = {"left": 70 / width, "right": 1 - 16 / width, "top": 1 - 58 / height, "bottom": 46 / height}
    yield sheet, area


def finished(sheet: Figure, width: int, height: int, scale: int, alt: str) -> Png:
    """The sheet as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    for axes in sheet.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
    canvas: Any = FigureCanvasAgg(sheet)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    out = BytesIO()
    # A chart has few colours and their shades: a third of the bytes, and nobody sees it.
    image.quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return Png(out.getvalue(), width, height, alt)


def short(number: float, _: float = 0.0) -> str:
    """A number for an axis: 1,500,000 is 1.5M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
