"""The stand-in's settings, in one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from closingbell.quota import Quota


@dataclass(frozen=True, slots=True)
class Config:
    """What the market is to be; ``docs/market.md`` tells the same from the outside.

    Attributes:
        size, seed: the generated market.
        replay: a file of real bars to serve in its place.
        now: freeze the clock at this aware instant; None follows the machine's.
        quota: calls a window, each key on its own; None is unlimited.
        window: whether the window rolls with each call or starts anew at fixed times.
        count_429: whether refused calls count as well.
        retry_after: whether a refusal says how long to wait.
        keys: the accepted keys; empty accepts any.
        entitled: the asset classes that the plan includes.
        history_years: how far back the plan reaches; None is without limit.
        publish_delay: seconds from a close until that session's bars are out.
        ranges: what becomes of a range that reaches past the plan's history or the last published
            session: cut to what there is, or refused whole.
        status: what a good answer says: ``OK``, or ``DELAYED`` as some plans do.
    """

    size: int = 11_000
    seed: int = 1792
    replay: Path | None = None
    now: datetime | None = None
    quota: Quota | None = None
    window: Literal["rolling", "fixed"] = "rolling"
    count_429: bool = True
    retry_after: bool = True
    keys: tuple[str, ...] = field(default=(), repr=False)
    entitled: tuple[str, ...] = ("stocks", "crypto", "fx")
    history_years: float | None = None
    publish_delay: float = 900.0
    ranges: Literal["clip", "refuse"] = "clip"
    status: Literal["OK", "DELAYED"] = "OK"

    def summary(self) -> dict[str, Any]:
        """The settings as JSON values; the keys are only counted."""
        out = asdict(self)
        out["keys"] = len(self.keys)
        out["quota"] = None if self.quota is None else {"calls": self.quota.calls, "seconds": self.quota.seconds}
        out["replay"] = None if self.replay is None else str(self.replay)
        out["now"] = None if self.now is None else self.now.isoformat()
        return out
