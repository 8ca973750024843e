"""Real minutes, as they are in their files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def read_minutes(path: Path) -> pd.DataFrame:
    """The bars of one file by their instants, numbers to the last digit: pandas' default was another before 3.0."""
    return pd.read_csv(path, index_col=0, parse_dates=[0], float_precision="round_trip")
