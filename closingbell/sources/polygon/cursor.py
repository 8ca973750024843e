"""Where the next page is: the vendor's ``next_url``, followed by us, each page through the gate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from closingbell.errors import MalformedResponseError

#: Pages in a row that bring nothing new; the vendor's pages are counted in bars, so that even one is strange.
_IDLE: Final = 10

#: After so many pages, they have to have brought :data:`_SCANT` new rows each on average: the vendor's have thousands.
_PATIENCE: Final = 20
_SCANT: Final = 5

#: No question has more pages: all dividends of 20 years have about 1,000, and minutes are asked for in parts.
_MOST: Final = 2_000


@dataclass(slots=True)
class Cursors:
    """The pages of one question, each to be visited once.

    Only the path and the query of a ``next_url`` count: host and key are ours, so that no answer can send the key
    elsewhere. The path must begin as that of the first page, so a cursor never leads into another ticker's bars.

    Attributes:
        path: what every page's path starts with, unquoted, e.g. ``/v2/aggs/ticker/X:BTCUSD/range/1/day/``.
        subject: what was asked, for the errors' texts.
    """

    path: str
    subject: str
    _seen: set[str] = field(default_factory=set)
    _idle: int = 0
    _found: int = 0

    def follow(self, next_url: str | None, new: int) -> str | None:
        """The path and query of the next page; None if this was the last.

        Args:
            next_url: as the page has it.
            new: how many rows the page brought that no page before it had.

        Raises:
            MalformedResponseError: the cursor was visited before, leads elsewhere, or leads on without end.
        """
        if not next_url:
            return None
        target = self._ours(next_url)
        if target is None:
            raise self._refused("the cursor leads to something else", next_url)
        if target in self._seen:
            raise self._refused("the cursor loops", target)
        self._seen.add(target)
        self._found += new
        self._idle = 0 if new else self._idle + 1
        pages = len(self._seen)
        if self._idle >= _IDLE:
            raise self._refused("the cursors lead on without end", f"{_IDLE} pages brought nothing")
        if pages >= _MOST or (pages >= _PATIENCE and self._found < _SCANT * pages):
            raise self._refused("the cursors lead on without end", f"{pages:,} pages brought {self._found:,} rows")
        return target

    def _ours(self, next_url: str) -> str | None:
        try:
            parts = urlsplit(next_url)
        except ValueError:
            return None
        root = self.path[: self.path.index("/", 1) + 1]
        path = parts.path[max(parts.path.find(root), 0) :]  # what a proxy puts before it is part of our own address
        plain = unquote(path)
        if not plain.startswith(self.path) or ".." in plain.split("/") or not parts.query:
            return None
        # The key belongs in a header only, even if an answer repeats it.
        query = [(name, value) for name, value in parse_qsl(parts.query) if name.lower() != "apikey"]
        return f"{path}?{urlencode(query)}"

    def _refused(self, what: str, value: str) -> MalformedResponseError:
        return MalformedResponseError(what, value=f"{self.subject}: {value[:200]}", fix="Ask again; nothing is kept")
