"""Answers whose form is right and whose numbers are not: another's series, another scale, an adjustment unasked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from closingbell.bars import VALUES
from infra.market.edits import FIELDS
from infra.market.faults import Rule
from infra.market.hashing import Floats
from infra.market.listing import asset_of
from infra.market.scale import PRICES, Rows


class Skew:
    """What the rules do to the numbers of one answer.

    Args:
        rules: each with the tickers it has settled on, by asset class (``same_series`` remembers the first asked).
    """

    def __init__(self, rules: Sequence[tuple[Rule, dict[str, str]]] = ()) -> None:
        self._rules = rules

    def series(self, ticker: str, asset: str) -> str:
        """Whose bars are given out as ``ticker``'s."""
        for rule, settled in self._rules:
            if rule.action == "same_series":
                of = rule.of or settled.setdefault(asset, ticker)
                return of if (asset_of(of) or "stocks") == asset else ticker
        return ticker

    @property
    def one_series(self) -> bool:
        """Whether everyone's bars are one ticker's."""
        return any(rule.action == "same_series" for rule, _ in self._rules)

    @property
    def adjusts(self) -> bool:
        """Whether prices are adjusted though raw ones were asked for."""
        return any(rule.action == "adjust" for rule, _ in self._rules)

    def unasked(self, rows: Rows, tickers: Sequence[str], ratio: Floats) -> Floats:
        """The ratios of those rows that are adjusted though raw ones were asked for; 1 for the rest."""
        met = np.zeros(len(rows), bool)
        for rule, _ in self._rules:
            if rule.action == "adjust":
                met |= _met(rule, rows, tickers)
        return np.where(met, ratio, 1.0)

    def scaled(self, rows: Rows, tickers: Sequence[str]) -> Rows:
        """The rows with prices, or some of them, times a factor."""
        for rule, _ in self._rules:
            if rule.action != "scale":
                continue
            met, rows = _met(rule, rows, tickers), rows.copy()
            for name in [FIELDS[field] for field in rule.fields or PRICES]:
                rows[name][met] *= rule.factor
            if rule.divide_volume:
                rows["volume"][met] /= rule.factor
        return rows


#: Nothing is skewed.
PLAIN: Final = Skew()


def copied(rows: Rows, one: Rows) -> Rows:
    """All rows with the values of the first row of ``one``; as they were when it has none."""
    if not len(one):
        return rows
    rows = rows.copy()
    for name in VALUES:
        rows[name] = one[name][0]
    return rows


def _met(rule: Rule, rows: Rows, tickers: Sequence[str]) -> NDArray[np.bool_]:
    """The rows that are of the rule's tickers and sessions, shape (n,)."""
    met = np.ones(len(rows), bool)
    if rule.tickers:
        met &= np.isin(rows["ticker"], [at for at, ticker in enumerate(tickers) if ticker in rule.tickers])
    if rule.first:
        met &= rows["session"] >= np.datetime64(rule.first, "D")
    if rule.last:
        met &= rows["session"] <= np.datetime64(rule.last, "D")
    return met
