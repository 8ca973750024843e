"""The vendor's own client, its errors typed and its waits bounded; the only file that imports it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import requests

from closingbell.errors import ClosingbellError, ConfigurationError
from closingbell.sources.databento.errors import malformed, of_status, of_transport
from closingbell.sources.databento.symbols import Symbol
from closingbell.sources.redact import Redactor

#: What the installed version was read for; see docs/databento.md.
INSTALL: Final = "pip install 'closingbell[databento]'"


@dataclass(frozen=True, slots=True)
class Span:
    """A symbol's bars of one schema from an instant up to, and without, another; both aware, UTC."""

    symbol: Symbol
    schema: str
    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.symbol.ticker} {self.schema} {self.start:%Y-%m-%dT%H:%M}..{self.end:%Y-%m-%dT%H:%M}Z"


class Client:
    """Four questions to the vendor's gateway; safe to use from several threads, as each is a request of its own.

    The client makes every gateway's address https; which certificates are trusted, ``REQUESTS_CA_BUNDLE`` says.

    Args:
        gateway: where the historical API is served.
        key: sent as the user of basic authentication, and nowhere else.
        timeout: seconds for a connection, and that an answer may stay silent.

    Raises:
        ConfigurationError: the client is not installed, or the key cannot be one.
    """

    def __init__(self, key: str, gateway: str, timeout: float) -> None:
        try:
            import databento
            from databento.common.error import BentoError, BentoHttpError
            from databento_dbn import DBNError
            from zstandard import ZstdError
        except ImportError:
            raise ConfigurationError("the client for Databento is not installed", fix=f"{INSTALL}.") from None
        self._http_error, self._errors = BentoHttpError, (BentoError, DBNError, ZstdError)
        if not re.fullmatch(r"[!-~]+", key):
            raise ConfigurationError("DATABENTO_API_KEY cannot be a key", fix="Set it to one word.")
        self._redact = Redactor(key)
        try:
            self._client = databento.Historical(key, gateway=gateway)
        except ValueError:
            raise ConfigurationError("DATABENTO_GATEWAY is no address", value=gateway, fix="Unset it.") from None
        # The client has no parameter for it; its default is 100 s.
        for part in (self._client.timeseries, self._client.metadata):
            part.TIMEOUT = timeout  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Client(databento)"

    def bars(self, span: Span) -> Any:
        """The bars of a span, as the client's store. This is what costs money.

        Raises:
            ClosingbellError: see :mod:`closingbell.sources.databento.errors`.
        """
        with self._asking(str(span)):
            return self._client.timeseries.get_range(dataset=span.symbol.dataset, **self._of(span))

    def price(self, span: Span) -> float:
        """What the bars of a span would cost, in US dollars; the question is free.

        Raises:
            ClosingbellError: as :meth:`bars`.
        """
        with self._asking(f"the price of {span}"):
            return float(self._client.metadata.get_cost(dataset=span.symbol.dataset, **self._of(span)))

    def available(self, dataset: str, schema: str) -> tuple[datetime, datetime]:
        """From when up to when, that instant not included, the key may have bars of a dataset; free.

        Raises:
            ClosingbellError: as :meth:`bars`.
        """
        with self._asking(f"the range of {dataset}"):
            told: Any = self._client.metadata.get_dataset_range(dataset=dataset)
            span = told.get("schema", {}).get(schema) or told
            return _instant(span["start"]), _instant(span["end"])

    @staticmethod
    def _of(span: Span) -> dict[str, Any]:
        asked = {"symbols": span.symbol.ticker, "stype_in": span.symbol.stype, "schema": span.schema}
        return {**asked, "start": span.start.isoformat(), "end": span.end.isoformat()}

    @contextmanager
    def _asking(self, subject: str) -> Iterator[None]:
        """Turn whatever the client or the network raises into an error of ours, without the key in any text."""
        error: ClosingbellError
        try:
            yield
            return
        except self._http_error as refused:
            error = of_status(refused.http_status, refused.json_body, refused.headers, subject)
        except requests.RequestException as failed:
            error = of_transport(failed, subject)
        except self._errors as failed:
            error = malformed(str(failed), subject)
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as failed:
            error = malformed(type(failed).__name__, subject)
        raise self._redact.clean(error) from None


def _instant(text: str) -> datetime:
    """An instant as the vendor writes it, down to nanoseconds, or a date; what is below microseconds is cut."""
    head, dot, rest = text.removesuffix("Z").partition(".")
    when = datetime.fromisoformat(f"{head}.{rest[:6]}" if dot else head)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
