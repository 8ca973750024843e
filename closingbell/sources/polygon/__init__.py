"""Polygon.io (Massive), through its own client, with what the client hides brought to light."""

from closingbell.sources.polygon.source import PolygonSource

__all__ = ["PolygonSource"]
