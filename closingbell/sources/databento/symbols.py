"""What a ticker is to Databento: a dataset, and the symbology that the symbol is written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from closingbell.calendar import asset_class
from closingbell.errors import ConfigurationError

#: CME Globex, the dataset of every continuous future unless a setting names another (``IFEU.IMPACT``, ``XEUR.EOBI``).
FUTURES: Final = "GLBX.MDP3"

#: Of US shares, unless a setting names an exchange's own (``XNAS.ITCH``).
SHARES: Final = "EQUS.MINI"

#: Our timeframes as the vendor's schemas; it has no other coarser than a second.
SCHEMAS: Final = {"1m": "ohlcv-1m", "1h": "ohlcv-1h", "1d": "ohlcv-1d"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A ticker in the vendor's terms.

    Attributes:
        ticker: as the person wrote it, which is also what the vendor is sent.
        dataset: where it is traded.
        stype: ``continuous`` for ``NQ.v.0``, which names a roll rule and a rank; else ``raw_symbol``.
    """

    ticker: str
    dataset: str
    stype: str


def symbol(ticker: str, dataset: str = "") -> Symbol:
    """The symbol of a ticker.

    Args:
        ticker: ``NQ.v.0``, or a share's.
        dataset: the vendor's code; empty: by the form of the ticker.

    Raises:
        ConfigurationError: the vendor has no such asset class.
    """
    name = asset_class(ticker)
    if name == "futures":
        return Symbol(ticker, dataset or FUTURES, "continuous")
    if name == "stocks":
        return Symbol(ticker, dataset or SHARES, "raw_symbol")
    raise ConfigurationError(
        f"Databento is not asked for {name}",
        value=ticker,
        fix="Ask for continuous futures (NQ.v.0) or shares (AAPL), or leave out --source databento.",
    )


def schema(timeframe: str) -> str:
    """The vendor's schema of a timeframe.

    Raises:
        ConfigurationError: it has none.
    """
    if found := SCHEMAS.get(timeframe):
        return found
    raise ConfigurationError(
        "Databento has no bars of this timeframe",
        value=timeframe,
        fix=f"Ask for one of {', '.join(SCHEMAS)}, and derive the others from stored minutes.",
    )
