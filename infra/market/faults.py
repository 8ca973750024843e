"""Ways for an answer to go wrong, on demand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, Final, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import numpy as np

from infra.market.edits import Edited, Entry
from infra.market.source import Split
from infra.market.wire import Payload

#: What is done to what it says.
CONTENT: Final = ("wrong_ticker", "short_count", "over_count", "twice", "loop", "onward", "astray", "empty")
#: What is done to the numbers of bars; several may happen to one call, and something else besides.
SKEWS: Final = ("same_series", "scale", "adjust")
#: What is done to the market itself, at once and for good (until the faults are cleared).
EDITS: Final = ("revise", "add_split")

PriceField = Literal["o", "h", "l", "c", "vw", "open", "high", "low", "close", "vwap"]

Action = Literal[
    "status",
    "html",
    "garbage",
    "bomb",
    "endless",
    "reset",
    "truncate",
    "stall",
    "drip",
    "wrong_ticker",
    "short_count",
    "over_count",
    "twice",
    "loop",
    "onward",
    "astray",
    "empty",
    "same_series",
    "scale",
    "adjust",
    "revise",
    "add_split",
]


class Rule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One fault: which calls it meets, how often, and what it does to them.

    Attributes:
        action: what happens.
        path: text that the path with query contains.
        regex: a pattern found in the path with query.
        ticker, date: the ticker, or a date (``YYYY-MM-DD``), that the path names.
        after: matching calls let through first.
        times: calls it happens to; None for ever.
        status, body, headers: of a ``status`` answer (a string body is sent as it is); ``html`` uses the status.
        when: ``head``: before anything is sent, or ``body``: after half of the body.
        seconds: how long a stall lasts, or a drip takes in all.
        bytes: how much garbage, or how much a bomb unzips to.
        values: the corrected values of a ``revise``; None removes the bar.
        split_from, split_to: the ratio of an ``add_split``.
        of: the ticker whose bars a ``same_series`` gives out as everyone's; left out, the first one asked for. The
            host that an ``astray`` leads to; left out, one that does not exist.
        factor, fields: what a ``scale`` multiplies, all prices unless ``fields`` names some, by the vendor's
            names or ours.
        divide_volume: whether a ``scale`` divides the volume by its factor as well.
        tickers, first, last: the bars that a ``scale`` or an ``adjust`` changes: of these tickers and of these
            sessions, both included (``YYYY-MM-DD``); all unless said.
    """

    action: Action
    path: str = ""
    regex: str = ""
    ticker: str = ""
    date: str = ""
    after: int = 0
    times: int | None = None
    status: int = 500
    body: str | dict[str, Any] | None = None
    headers: dict[str, str] = {}
    when: Literal["head", "body"] = "head"
    seconds: float = 1.0
    bytes: int = 4096
    values: dict[str, float | None] | None = None
    split_from: float = 1
    split_to: float = 2
    of: str = ""
    factor: float = 100.0
    fields: list[PriceField] = []
    divide_volume: bool = False
    tickers: list[str] = []
    first: str = ""
    last: str = ""

    def __post_init__(self) -> None:
        if self.regex:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"regex: {error}") from error
        for day in filter(None, (self.first, self.last)):
            date.fromisoformat(day)
        if self.action in EDITS and not (self.ticker and self.date):
            raise ValueError(f"{self.action} needs a ticker and a date")

    def meets(self, path: str, parts: list[str]) -> bool:
        """Whether a call to ``path`` (with query), whose path splits into ``parts``, is one of the rule's."""
        if self.action in SKEWS and not _skewable(parts, self.tickers):
            return False
        return (
            self.path in path
            and (not self.regex or re.search(self.regex, path) is not None)
            and (not self.ticker or self.ticker in parts)
            and (not self.date or self.date in path)
        )


class Faults:
    """The rules in force; the first that matches a call and has not run out happens, and every such skew."""

    def __init__(self, market: Edited) -> None:
        self._market = market
        self._rules: list[tuple[Rule, list[int], dict[str, str]]] = []

    def add(self, rule: Rule) -> None:
        """Put a rule in force, or carry out an edit.

        Raises:
            ValueError: an edit names a value that bars do not have, or no real date.
        """
        if rule.action == "revise":
            values = rule.values
            self._market.revise(rule.ticker, np.datetime64(rule.date, "D"), values)
        elif rule.action == "add_split":
            self._market.add_split(Entry(Split(rule.date, rule.ticker, rule.split_from, rule.split_to, 2)))
        else:
            self._rules.append((rule, [0], {}))

    def clear(self) -> None:
        """Drop every rule and undo every edit."""
        self._rules.clear()
        self._market.clear()

    def pick(self, path: str, parts: list[str]) -> Rule | None:
        """The fault that happens to this call, if one does; it counts as having happened. Skews are apart."""
        others = (held for held in self._rules if held[0].action not in SKEWS)
        return next((rule for rule, seen, _ in others if _turn(rule, seen, path, parts)), None)

    def skews(self, path: str, parts: list[str]) -> list[tuple[Rule, dict[str, str]]]:
        """The skews that happen to this call, with what each has settled on; they count as having happened."""
        mine = [held for held in self._rules if held[0].action in SKEWS]
        return [(rule, settled) for rule, seen, settled in mine if _turn(rule, seen, path, parts)]

    def listed(self) -> list[dict[str, Any]]:
        """The rules with how many calls each has met."""
        return [{**msgspec.to_builtins(rule), "met": seen[0]} for rule, seen, _ in self._rules]


def _turn(rule: Rule, seen: list[int], path: str, parts: list[str]) -> bool:
    """Whether the rule meets this call and it is its turn; ``seen`` counts the calls met."""
    if not rule.meets(path, parts) or (rule.times is not None and seen[0] >= rule.after + rule.times):
        return False
    seen[0] += 1
    return seen[0] > rule.after


def _skewable(parts: Sequence[str], tickers: Sequence[str]) -> bool:
    """Whether a path is a range's of one of the tickers (of any, if there are none), or a market day's."""
    if parts[1:3] != ["v2", "aggs"]:
        return False
    return parts[3] != "ticker" or not tickers or parts[4] in tickers


def distort(payload: Payload, rule: Rule, url: str) -> Payload:
    """The payload with a content fault in it; ``url`` is the request's own."""
    rows, action = payload.results, rule.action
    if action == "wrong_ticker":
        payload.head["ticker"] = "WRONG"
    elif action in ("short_count", "over_count") and "resultsCount" in payload.head:
        payload.head["resultsCount"] += 7 if action == "short_count" else -1
    elif action == "twice" and rows and rows != "[]":
        payload.results = f"{rows[:-1]},{rows[1:]}"
        payload.rows *= 2
        for where in (payload.head, payload.tail):
            for name in ("resultsCount", "queryCount", "count"):
                if name in where:
                    where[name] *= 2
    elif action == "loop":
        payload.tail["next_url"] = url
    elif action == "astray":
        payload.tail["next_url"] = urlsplit(url)._replace(scheme="https", netloc=rule.of or "astray.invalid").geturl()
    elif action in ("empty", "onward"):
        payload.results, payload.rows = None, 0
        payload.tail.pop("count", None)
        payload.tail.pop("next_url", None)
        if action == "onward":
            payload.tail["next_url"] = f"{url}&onward={uuid4().hex}"
        payload.head.update({name: 0 for name in ("queryCount", "resultsCount") if name in payload.head})
    return payload
