"""The vendor's JSON, to the letter: key order, volumes with exponents, keys that are left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from closingbell.bars import NO_TRADES, Bars
from infra.market.hashing import Floats, Ints

#: From here on the vendor writes a volume as `1.029145e+06`.
_EXPONENT_FROM: Final = 1e6

_FULL: Final = '{"v":%s,"vw":%s,"o":%s,"c":%s,"h":%s,"l":%s,"t":%d,"n":%d}'
_BARE: Final = '{"v":%s,"o":%s,"c":%s,"h":%s,"l":%s,"t":%d}'


@dataclass(slots=True)
class Payload:
    """An answer before it becomes bytes.

    Attributes:
        head: keys before the results, in order.
        results: the results array without its brackets; None leaves the key out, as the vendor does when empty.
        rows: how many rows ``results`` holds.
        tail: keys after the results, in order; ``request_id`` is put in when it is None there.
    """

    head: dict[str, Any] = field(default_factory=dict)
    results: str | None = None
    rows: int = 0
    tail: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None

    def front(self) -> bytes:
        """The bytes up to and including the results: equal for equal requests."""
        if self.raw is not None:
            return self.raw
        text = "{" + "".join(f"{quote(key)}:{quote(value)}," for key, value in self.head.items())
        if self.results is not None:
            text += f'"results":{self.results},'
        return text.encode()

    def back(self, request_id: str) -> bytes:
        """The rest, with this request's own identifier."""
        if self.raw is not None:
            return b""
        tail = {key: request_id if key == "request_id" else value for key, value in self.tail.items()}
        return (",".join(f"{quote(key)}:{quote(value)}" for key, value in tail.items()) + "}").encode()


def quote(value: Any) -> str:
    """A value as compact JSON."""
    return msgspec.json.encode(value).decode()


def array(rows: list[str]) -> str:
    """A JSON array of encoded rows."""
    return "[" + ",".join(rows) + "]"


def bar_rows(bars: Bars, stamps: Ints, *, with_ticker: bool = False) -> list[str]:
    """Each bar as the vendor writes it. A missing vwap or trade count leaves both keys out; NaN is null.

    Args:
        bars: the bars.
        stamps: epoch ms of each, shape (n,).
        with_ticker: begin each row with ``T``, as on a market day.
    """
    rows = bars.rows
    columns = [_volumes(rows["volume"])]
    columns += [_numbers(rows[name]) for name in ("vwap", "open", "close", "high", "low")]
    t, n = stamps.tolist(), rows["trades"].tolist()
    bare = np.isnan(rows["vwap"]) | (rows["trades"] == NO_TRADES)
    if not bare.any():
        texts = [_FULL % row for row in zip(*columns, t, n, strict=True)]
    else:
        texts = [
            _BARE % (v, o, c, h, low, at) if lacking else _FULL % (v, vw, o, c, h, low, at, count)
            for v, vw, o, c, h, low, at, count, lacking in zip(*columns, t, n, bare.tolist(), strict=True)
        ]
    if not with_ticker:
        return texts
    openings = [f'{{"T":{quote(ticker)},' for ticker in bars.tickers]
    return [openings[position] + text[1:] for position, text in zip(rows["ticker"].tolist(), texts, strict=True)]


def _numbers(values: Floats) -> list[str]:
    """The shortest decimals that read back the same, whole numbers without `.0`."""
    text = msgspec.json.encode(values.tolist()).decode()[1:-1]
    return (text + ",").replace(".0,", ",")[:-1].split(",") if len(values) else []


def _volumes(values: Floats) -> list[str]:
    texts = _numbers(values)
    for i in np.flatnonzero(values >= _EXPONENT_FROM).tolist():
        texts[i] = _exponent(texts[i])
    return texts


def _exponent(text: str) -> str:
    """`37039737` -> `3.7039737e+07`."""
    if "e" in text:
        return text
    whole, _, fraction = text.partition(".")
    digits = (whole + fraction).rstrip("0")
    mantissa = f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits
    return f"{mantissa}e+{len(whole) - 1:02d}"
