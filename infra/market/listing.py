"""Which tickers exist: what a well-formed ticker is, and who is on the market day."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from closingbell import universe
from infra.market.hashing import ticker_hashes

#: A common share (`BRK.B`, `ABC.WS`), or a preferred (`ABCpD`); five letters are an OTC stock or a fund.
STOCK: Final = re.compile(r"[A-Z]{1,5}(?:p[A-Z]?|r|w)?(?:\.[A-Z]{1,2})?")
CRYPTO: Final = re.compile(r"X:[A-Z0-9]{2,10}[A-Z]{3}")
FX: Final = re.compile(r"C:[A-Z]{6}")

#: Begins the name of a series that no ticker has: no request can ask for it by name.
OWN: Final = "@"

_COINS = "BTC ETH SOL XRP ADA DOGE LTC BCH DOT LINK AVAX UNI XLM ETC ATOM ALGO AAVE FIL NEAR SHIB"
_PAIRS = "EURUSD USDJPY GBPUSD USDCHF AUDUSD USDCAD NZDUSD EURGBP EURJPY GBPJPY EURCHF AUDJPY USDSEK USDNOK USDMXN"

CRYPTO_PAIRS: Final = tuple(f"X:{coin}USD" for coin in _COINS.split())
FX_PAIRS: Final = tuple(f"C:{pair}" for pair in _PAIRS.split())

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def asset_of(ticker: str) -> str | None:
    """``stocks``, ``crypto``, ``fx``, ``indices``, ``options``, or None for what no vendor would know."""
    prefixes = {"X:": CRYPTO, "C:": FX}
    if pattern := prefixes.get(ticker[:2]):
        return ({"X:": "crypto", "C:": "fx"}[ticker[:2]]) if pattern.fullmatch(ticker) else None
    if ticker[:2] in ("I:", "O:"):
        return "indices" if ticker[0] == "I" else "options"
    return "stocks" if STOCK.fullmatch(ticker) else None


def series_asset(series: str) -> str | None:
    """The asset class of a series of bars: a ticker's, or a scripted instrument's own (:data:`OWN`)."""
    return "stocks" if series.startswith(OWN) else asset_of(series)


@cache
def core() -> tuple[str, ...]:
    """The S&P 500 and the ETFs of :mod:`closingbell.universe`: traded on every session, listed first."""
    return tuple(universe.load("sp500+etfs"))


@cache
def listing(size: int, seed: int) -> tuple[str, ...]:
    """The ``size`` stocks on the market day: :func:`core`, then made-up symbols.

    One in 25 of the made-up ones is a preferred share (``ABCpD``, case-sensitive), one in 50 a class share.
    """
    chosen = dict.fromkeys(core()[:size])
    draws = iter(range(1 << 30))
    while len(chosen) < size:
        numbers = ticker_hashes((str(next(draws)) for _ in range(size)), seed)
        for symbol in _symbols(numbers.tolist()):
            chosen.setdefault(symbol)
            if len(chosen) == size:
                break
    return tuple(chosen)


def _symbols(numbers: list[int]) -> list[str]:
    symbols = []
    for number in numbers:
        number, kind = divmod(number, 100)
        letters = ""
        for _ in range(3 if kind < 6 else 3 + (kind > 12)):
            number, letter = divmod(number, 26)
            letters += _LETTERS[letter]
        suffix = f"p{_LETTERS[number % 5]}" if kind < 4 else f".{_LETTERS[number % 2]}" if kind < 6 else ""
        symbols.append(letters + suffix)
    return symbols
