"""Polygon's (Massive's) flat files: one object a day with every ticker's bars, over S3."""

from closingbell.sources.flatfiles.source import DATASETS, FlatFiles

__all__ = ["DATASETS", "FlatFiles"]
