"""Upkeep of the dated universe that ships with the package."""
