"""A picture as it is handed on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Png:
    """A picture.

    Attributes:
        data: the bytes of a PNG.
        width: in points as a page shows it; the PNG may have several pixels for each.
        height: the same.
        alt: what it shows, in words, for those who cannot see it.
    """

    data: bytes
    width: int
    height: int
    alt: str
