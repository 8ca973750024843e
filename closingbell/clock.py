"""Time, read in one place, so that a night can be replayed."""

from __future__ import annotations

from datetime import UTC, datetime


class Clock:
    """The present instant, or a frozen one.

    Args:
        frozen: an aware instant to stand still at; None follows the machine's clock.
    """

    def __init__(self, frozen: datetime | None = None) -> None:
        self._frozen = frozen

    def now(self) -> datetime:
        """The current instant, aware, in UTC."""
        return self._frozen.astimezone(UTC) if self._frozen else datetime.now(UTC)
