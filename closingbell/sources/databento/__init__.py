"""Databento as a source of bars, through its own client (the optional extra ``databento``)."""

from closingbell.sources.databento.source import DatabentoSource

__all__ = ["DatabentoSource"]
