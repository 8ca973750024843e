"""Who is in a universe on a date, and which tickers a person asked for.

A named universe is a list of dated facts in ``closingbell/data``; a date after ``@`` gives its members on that day:

    sp500+etfs          the default: 503 members and 20 ETFs
    sp500               the current members of the S&P 500
    sp500@2015-06-30    its members on that day, under the tickers of that day
    etfs                20 large ETFs

Membership is half-open: a ticker is a member from its ``start`` up to, and without, its ``end``; changes take effect
before the open of their date. Tickers are case-sensitive and in the vendor's own writing; nothing here rewrites one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from errno import ENOENT
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Final

from closingbell.errors import ConfigurationError

#: The universe of a run that names neither tickers nor a universe.
DEFAULT: Final = "sp500+etfs"

#: The names that :func:`load` knows, ``sp500`` also with a date.
NAMES: Final = ("sp500", "etfs", "sp500+etfs")

#: The first day of the membership record; who was a member then is known, since when is not.
FIRST_MEMBERSHIP: Final = date(1996, 1, 2)

#: A ticker as the vendor writes it, at most 32 characters: ``AAPL``, ``BRK.B``, ``PEBpE``, ``BAC.WS.A``, ``X:BTCUSD``,
#: ``C:EURUSD``, ``NQ.v.0``. It has neither look-around nor flags, so that JSON schemas and pydantic take it as it is.
TICKER_PATTERN: Final = r"^([XC]:)?[A-Z0-9][A-Za-z0-9]{0,19}(\.[A-Za-z0-9]{1,4}){0,2}$"

_TICKER: Final = re.compile(TICKER_PATTERN)
_HEADER: Final = ("ticker", "symbol")

#: Characters of a line that an error shows: enough for a ticker, not for a key, should someone name the wrong file.
_SHOWN_OF_A_FILE: Final = 12


@dataclass(frozen=True, slots=True)
class Membership:
    """A ticker's membership in the S&P 500, from ``start`` up to, and without, ``end``.

    Attributes:
        ticker: as it was written at the time.
        start: the first day; :data:`FIRST_MEMBERSHIP` means then or before.
        end: the first day on which it is no longer a member; None while it is.
        name: the company, empty where no source tells.
        cik: the company's SEC number, 10 digits with leading zeros, empty where no source tells.
    """

    ticker: str
    start: date
    end: date | None
    name: str
    cik: str

    def covers(self, day: date) -> bool:
        """Whether the ticker is a member on ``day``."""
        return self.start <= day and (self.end is None or day < self.end)


@cache
def memberships() -> tuple[Membership, ...]:
    """Every membership since 1996, by ticker and start; a ticker that left and came back has several."""
    return tuple(
        Membership(
            row["ticker"],
            date.fromisoformat(row["from"]),
            date.fromisoformat(row["to"]) if row["to"] else None,
            row["name"],
            row["cik"],
        )
        for row in _shipped("sp500.csv")
    )


@cache
def load(name: str, on: date | None = None) -> tuple[str, ...]:
    """The tickers of a named universe, each once: index members by ticker, then ETFs by size.

    Args:
        name: one of :data:`NAMES`; those with ``sp500`` may end in ``@`` and a date, ``sp500@2015-06-30``.
        on: the same date as an argument. None, and no ``@``: the members as of the shipped list. The ETFs have no
            dates and are the same on every day.

    Raises:
        ConfigurationError: there is no such universe, the date is no date, or it is before the record of membership.
    """
    base, at, text = name.partition("@")
    if base not in NAMES or (at and "sp500" not in base):
        raise ConfigurationError(
            "there is no such universe",
            value=repr(name),
            fix=f"Use one of {', '.join(NAMES)}, or the index on a past day: sp500@2015-06-30.",
        )
    day = _date(name, text) if at else on
    if on is not None and day != on:
        raise ConfigurationError("a universe was given two dates", value=f"{name} and {on}", fix="Give one of them.")
    tickers: list[str] = []
    if "sp500" in base:
        tickers += _members(day)
    if "etfs" in base:
        tickers += (row["ticker"] for row in _shipped("etfs.csv"))
    return tuple(tickers)


def parse_tickers(given: str | Iterable[str]) -> tuple[str, ...]:
    """The tickers that a person wrote down, in their order, each once.

    Args:
        given: a text with tickers between commas or white space; a list of tickers; or ``@`` and the path of a file,
            alone or in the list. The file holds one ticker a line, or is a CSV with a column ``ticker`` or ``symbol``;
            blank lines, comments after ``#``, a byte order mark and either line ending are fine.

    Raises:
        ConfigurationError: a value is no ticker (the message has it, and where it stands), a file cannot be read, or
            there is no ticker at all.
    """
    if isinstance(given, str):
        text = given.strip()
        items: Iterable[str] = [text] if text.startswith("@") else [t for t in re.split(r"[,\s]+", text) if t]
    else:
        items = given
    tickers: dict[str, None] = {}
    for number, item in enumerate(items, 1):
        if isinstance(item, str) and item.startswith("@"):
            tickers |= dict.fromkeys(_from_file(Path(item[1:].strip())))
        else:
            tickers[_ticker(item, f"ticker {number}")] = None
    if not tickers:
        raise ConfigurationError(
            "the list of tickers is empty",
            fix="Name at least one, as in AAPL,MSFT; for a whole universe leave the tickers out.",
        )
    return tuple(tickers)


def check_ticker(text: str) -> str:
    """One ticker, as it is.

    Raises:
        ConfigurationError: it cannot be one.
    """
    return _ticker(text, "the one asked for")


def resolve(universe: str | None = None, tickers: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """The tickers a run is about: those given, else those of the universe, else those of :data:`DEFAULT`.

    An empty list of tickers is what a form sends that nobody filled in, and means none given; an empty *text* is an
    error, because a script whose variable is unset should not ingest a whole index.

    Raises:
        ConfigurationError: see :func:`parse_tickers` and :func:`load`.
    """
    if isinstance(tickers, str) or tickers:
        return parse_tickers(tickers)
    return load(universe or DEFAULT)


def _members(day: date | None) -> list[str]:
    if day is not None and day < FIRST_MEMBERSHIP:
        raise ConfigurationError(
            "nobody recorded who was in the S&P 500 on that day",
            value=day,
            fix=f"Use a date from {FIRST_MEMBERSHIP} on.",
        )
    return [m.ticker for m in memberships() if (m.end is None if day is None else m.covers(day))]


def _ticker(value: object, where: str, show: int = 40) -> str:
    text = value if isinstance(value, str) else ""
    if _TICKER.fullmatch(text):
        return text
    raw = text or repr(value)
    shown = repr(raw if len(raw) <= show else raw[:show] + "…") if text else raw[:show]
    raise ConfigurationError("this is not a ticker", value=f"{shown} ({where})", fix=_hint(text))


def _hint(text: str) -> str:
    if _TICKER.fullmatch(text.strip()):
        return "Remove the white space around it."
    if len(text.split()) > 1:
        return "Write each ticker by itself."
    if re.match(r"[IO]:", text):
        return "Indices and options have no bars here; use stocks, ETFs, X: (crypto) or C: (currencies)."
    if re.fullmatch(r"[A-Z]+[-/][A-Z]", text):
        return f"The vendor writes share classes with a dot: {text[:-2]}.{text[-1]}."
    if re.fullmatch(r"[xc]:\w+|[a-z0-9.]+", text) and _TICKER.fullmatch(text.upper()):
        return f"Tickers are case-sensitive: {text.upper()}?"
    return "Write tickers as the vendor does: AAPL, BRK.B, PEBpE, X:BTCUSD, C:EURUSD."


def _from_file(path: Path) -> Iterator[str]:
    try:
        if not path.is_file():  # nor a directory, nor a device that never ends
            raise FileNotFoundError(ENOENT, "no such file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(
            "the file of tickers cannot be read",
            value=f"{path} ({error.strerror})",
            fix="After @ comes the path of a text file.",
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(
            "the file of tickers is not UTF-8 text", value=path, fix="Save it as plain text or CSV, in UTF-8."
        ) from None
    lines = [line if line.lstrip()[:1] != "#" else "" for line in text.splitlines()]
    first = next((line for line in lines if line.strip()), "")
    names = [cell.strip().strip('"').lower() for cell in re.split("[,;\t]", first)]
    column = next((names.index(name) for name in _HEADER if name in names), None)
    if column is None:
        yield from _from_lines(path, lines)
    else:
        yield from _from_csv(path, lines, column, next((d for d in ",;\t" if d in first), ","))


def _from_lines(path: Path, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        ticker = line.partition("#")[0].strip()
        if "," in ticker:
            raise ConfigurationError(
                "a line of the file of tickers holds more than one value",
                value=f"line {number} of {path}",
                fix="Write one ticker a line, or head the column with 'ticker' or 'symbol'.",
            )
        if ticker:
            yield _ticker(ticker, f"line {number} of {path}", _SHOWN_OF_A_FILE)


def _from_csv(path: Path, lines: list[str], column: int, delimiter: str) -> Iterator[str]:
    reader = csv.reader(StringIO("\n".join(lines)), delimiter=delimiter, strict=True)
    try:
        filled = (row for row in reader if any(cell.strip() for cell in row))
        next(filled)
        for row in filled:
            cell = row[column].strip() if column < len(row) else ""
            yield _ticker(cell, f"line {reader.line_num} of {path}", _SHOWN_OF_A_FILE)
    except csv.Error as error:
        raise ConfigurationError(
            "the file of tickers is not a readable CSV",
            value=f"line {reader.line_num} of {path} ({error})",
            fix="Check the quotes on that line.",
        ) from None


def _date(name: str, text: str) -> date:
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ConfigurationError(
        "the date of a universe cannot be read", value=repr(name), fix="Write it as in sp500@2015-06-30."
    )


def _shipped(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(files("closingbell.data").joinpath(name).read_text(encoding="utf-8"))))
