"""Where bars come from: a call in, bars or a typed outcome out. No source knows a database."""

from closingbell.sources.base import MarketDayPage, Page, Source, Split

__all__ = ["MarketDayPage", "Page", "Source", "Split"]
