"""The vendor's quota: how many calls in how long, and the gate that every call passes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from closingbell.errors import ConfigurationError

_UNITS: Final = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
}
_RATE: Final = re.compile(r"(?P<calls>\d+)\s*(?:/\s*(?P<count>\d+(?:\.\d+)?)?\s*(?P<unit>[a-z]+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quota:
    """At most ``calls`` calls in any window of ``seconds`` seconds."""

    calls: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Quota:
        """Read ``5`` (a minute), ``100/s``, ``5/min`` or ``5/6s``.

        Raises:
            ConfigurationError: the text is none of these, or allows no call at all.
        """
        match = _RATE.fullmatch(text.strip())
        unit = (match["unit"] or "min").lower() if match else ""
        calls = int(match["calls"]) if match else 0
        seconds = float(match["count"] or 1) * _UNITS.get(unit, 0.0) if match else 0.0
        if calls < 1 or seconds <= 0:
            raise ConfigurationError(
                "the quota is not a rate",
                value=repr(text),
                fix="Set POLYGON_CALLS_PER_MINUTE to calls a minute (5), or to a rate with a unit: 100/s, 5/min, 5/6s.",
            )
        return cls(calls, seconds)

    @property
    def interval(self) -> float:
        """Seconds of quota that one call uses up."""
        return self.seconds / self.calls

    def __str__(self) -> str:
        unit = {1.0: "second", 60.0: "minute", 3600.0: "hour"}.get(self.seconds, f"{self.seconds:g} s")
        article = "an" if unit == "hour" else "a"
        calls = f"{self.calls:,} call{'s' if self.calls != 1 else ''}"
        return f"{calls} {article} {unit}" if unit.isalpha() else f"{calls} in {unit}"


class Rates(Protocol):
    """How fast calls may be made, for each asset class."""

    def holder(self, asset_class: str) -> str:
        """The class whose quota the calls of this one use up: its own, or ``stocks``."""

    def of(self, asset_class: str) -> Quota:
        """The quota of that holder."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quota of stocks, and of the asset classes that have one of their own; all others share the stocks'."""

    stocks: Quota
    own: Mapping[str, Quota]

    def holder(self, asset_class: str) -> str:
        """The class whose quota the calls of this one use up: its own, or ``stocks``."""
        return asset_class if asset_class in self.own else "stocks"

    def of(self, asset_class: str) -> Quota:
        """The quota of that holder."""
        return self.own.get(asset_class, self.stocks)

    def all(self) -> dict[str, Quota]:
        """Every quota by its holder, stocks first."""
        return {"stocks": self.stocks, **self.own}

    def __str__(self) -> str:
        return ", ".join([str(self.stocks), *(f"{name} {quota}" for name, quota in self.own.items())])


class Gate(Protocol):
    """What a source passes through for every call, so that no call happens outside the quota."""

    def call(self) -> AbstractContextManager[None]:
        """Wait until the quota has room; the body sends one request and ends when the answer's head is in.

        The call counts against the quota from entry until the quota's window after exit has passed.
        """

    def pause(self, seconds: float | None) -> None:
        """Let no further call start for this long: the vendor said so (429). None: for the quota's window."""


class Gates(Protocol):
    """The gate of every asset class."""

    def of(self, asset_class: str) -> Gate:
        """The gate that calls of this class pass; one gate may serve several."""
