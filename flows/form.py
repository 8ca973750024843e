"""The parameters that the flows' forms share: what Prefect checks before a run exists."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from closingbell.universe import TICKER_PATTERN

#: A ticker as the vendor writes it; the form refuses anything else.
Ticker = Annotated[str, StringConstraints(pattern=TICKER_PATTERN, min_length=1, max_length=32)]

#: Prefect's form checks a pattern but not ``format: date``, so the shape of a date is given as both.
Day = Annotated[date, Field(json_schema_extra={"pattern": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"})]

#: Of the bars; the form offers a choice.
Timeframe = Literal["1d", "1h", "30m", "15m", "5m", "1m"]

#: The vendors that a person may ask for.
Vendor = Literal["polygon", "databento"]

Universe = Literal["sp500+etfs", "sp500", "etfs"]
