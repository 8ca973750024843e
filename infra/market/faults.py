"""Ways for an answer to go wrong, on demand."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec
import numpy as np

from infra.market.edits import Edited
from infra.market.source import Split
from infra.market.wire import Payload

#: What is done to what it says.
CONTENT: Final = ("wrong_ticker", "short_count", "twice", "loop", "empty")
#: What is done to the market itself, at once and for good (until the faults are cleared).
EDITS: Final = ("revise", "add_split")

Action = Literal[
    "status",
    "html",
    "garbage",
    "reset",
    "truncate",
    "stall",
    "drip",
    "wrong_ticker",
    "short_count",
    "twice",
    "loop",
    "empty",
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
        bytes: how much garbage.
        values: the corrected values of a ``revise``; None removes the bar.
        split_from, split_to: the ratio of an ``add_split``.
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

    def __post_init__(self) -> None:
        if self.regex:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"regex: {error}") from error
        if self.action in EDITS and not (self.ticker and self.date):
            raise ValueError(f"{self.action} needs a ticker and a date")

    def meets(self, path: str, parts: list[str]) -> bool:
        """Whether a call to ``path`` (with query), whose path splits into ``parts``, is one of the rule's."""
        return (
            self.path in path
            and (not self.regex or re.search(self.regex, path) is not None)
            and (not self.ticker or self.ticker in parts)
            and (not self.date or self.date in path)
        )


class Faults:
    """The rules in force; the first that matches a call and has not run out happens."""

    def __init__(self, market: Edited) -> None:
        self._market = market
        self._rules: list[tuple[Rule, list[int]]] = []

    def add(self, rule: Rule) -> None:
        """Put a rule in force, or carry out an edit.

        Raises:
            ValueError: an edit names a value that bars do not have, or no real date.
        """
        if rule.action == "revise":
            values = rule.values
            self._market.revise(rule.ticker, np.datetime64(rule.date, "D"), values)
        elif rule.action == "add_split":
            self._market.add_split(Split(rule.date, rule.ticker, rule.split_from, rule.split_to, 2))
        else:
            self._rules.append((rule, [0]))

    def clear(self) -> None:
        """Drop every rule and undo every edit."""
        self._rules.clear()
        self._market.clear()

    def pick(self, path: str, parts: list[str]) -> Rule | None:
        """The fault that happens to this call, if one does; it counts as having happened."""
        for rule, seen in self._rules:
            if not rule.meets(path, parts):
                continue
            if rule.times is not None and seen[0] >= rule.after + rule.times:
                continue
            seen[0] += 1
            if seen[0] > rule.after:
                return rule
        return None

    def listed(self) -> list[dict[str, Any]]:
        """The rules with how many calls each has met."""
        return [{**msgspec.to_builtins(rule), "met": seen[0]} for rule, seen in self._rules]


def distort(payload: Payload, action: str, url: str) -> Payload:
    """The payload with a content fault in it; ``url`` is the request's own."""
    rows = payload.results
    if action == "wrong_ticker":
        payload.head["ticker"] = "WRONG"
    elif action == "short_count" and "resultsCount" in payload.head:
        payload.head["resultsCount"] += 7
    elif action == "twice" and rows and rows != "[]":
        payload.results = f"{rows[:-1]},{rows[1:]}"
        payload.rows *= 2
        for where in (payload.head, payload.tail):
            for name in ("resultsCount", "queryCount", "count"):
                if name in where:
                    where[name] *= 2
    elif action == "loop":
        payload.tail["next_url"] = url
    elif action == "empty":
        payload.results, payload.rows = None, 0
        payload.tail.pop("count", None)
        payload.tail.pop("next_url", None)
        payload.head.update({name: 0 for name in ("queryCount", "resultsCount") if name in payload.head})
    return payload
