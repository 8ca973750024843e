"""The log of calls: one row for every call of the vendor's API that arrived, whatever became of it."""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

_KEPT: Final = 1_000_000


class CallLog:
    """The last million calls.

    Times of calls follow the monotonic clock from the instant the log was made, so that a window can be
    audited to the microsecond even if the machine's clock is set meanwhile.
    """

    def __init__(self) -> None:
        self._rows: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._epoch = time.time() - time.monotonic()

    def open(self, received: float, method: str, path: str, query: str) -> dict[str, Any]:
        """Add the row of a call received at ``received`` (monotonic seconds); the key is never written."""
        shown = urlencode(
            [(k, v) for k, v in parse_qsl(query, keep_blank_values=True) if k.lower() != "apikey"], safe=":,"
        )
        row: dict[str, Any] = {
            "time": self._epoch + received,
            "iso": "",
            "method": method,
            "path": f"{path}?{shown}" if shown else path,
            "status": 0,
            "rows": 0,
            "seconds": 0.0,
            "fault": None,
        }
        self._rows.append(row)
        return row

    def since(self, epoch: float = 0.0) -> list[dict[str, Any]]:
        """The rows of calls received after ``epoch`` (seconds), in order of receipt."""
        rows = []
        for row in reversed(self._rows):
            if row["time"] <= epoch:
                break
            rows.append({**row, "iso": datetime.fromtimestamp(row["time"], UTC).isoformat(timespec="microseconds")})
        return rows[::-1]

    def clear(self) -> None:
        """Forget every call."""
        self._rows.clear()

    def __len__(self) -> int:
        return len(self._rows)
