"""The source itself: a day of all stocks in one call."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from pathlib import Path
from typing import Final, NoReturn

from closingbell.errors import ConfigurationError, RunEndingError
from closingbell.quota import Gates
from closingbell.sources.base import MarketDayPage
from closingbell.sources.flatfiles import download, parse
from closingbell.sources.flatfiles.bucket import Bucket
from closingbell.sources.tally import Tally

#: The vendor's folder for each timeframe; the others can be derived from minutes.
DATASETS: Final = {"1m": "us_stocks_sip/minute_aggs_v1", "1d": "us_stocks_sip/day_aggs_v1"}


#: Whose quota the requests use up.
QUOTA: Final = "flatfiles"


class FlatFiles:
    """Bars of US stocks from the vendor's flat files, raw: unadjusted, and without vwap.

    An instance may be used from many threads at once.

    Args:
        key: the S3 access key's id.
        secret: its secret.
        gates: every request passes that of :data:`QUOTA`; the REST API's quota is another one.
        folder: where objects are while they come, and what is told of them stays.
        endpoint: of the S3 service, ``http`` or ``https``, without a query.
        bucket: its name.
        connect_timeout: seconds for a connection.
        read_timeout: seconds that a body may stay silent.
        call_timeout: seconds that a request may take in all; what came by then is not fetched again.

    Raises:
        ConfigurationError: the keys or the address cannot be such, or s3fs is not installed.
    """

    name = "flatfiles"

    def __init__(
        self,
        key: str,
        secret: str,
        gates: Gates,
        folder: Path,
        *,
        endpoint: str = "https://files.massive.com",
        bucket: str = "flatfiles",
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        call_timeout: float = 120.0,
    ) -> None:
        for name, value in (("KEY", key), ("SECRET", secret)):
            if not re.fullmatch(r"[!-~]+", value):
                fix = "Set it to one word: no spaces, line ends or accents."
                raise ConfigurationError(f"POLYGON_FLATFILES_{name} cannot be a key", fix=fix)
        if not re.fullmatch(r"https?://[^/?#@\s]+(:\d+)?(/[^?#@\s]*)?", endpoint):
            fix = "Set it to http(s)://host[:port], without a key or a question mark."
            raise ConfigurationError("POLYGON_FLATFILES_URL is not an address", fix=fix)
        self._tally = Tally()
        self._folder = folder
        self._ended = threading.Event()
        self._gate = _Counted(gates, self._tally)
        self._bucket = Bucket(
            endpoint,
            bucket,
            key,
            secret,
            self._gate,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            call_timeout=call_timeout,
        )

    def __repr__(self) -> str:
        return f"FlatFiles({self._bucket.name!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a source holds keys and connections: build it in the process that uses it")

    @property
    def calls(self) -> dict[str, int]:
        """Requests so far: ``flat_file``."""
        return self._tally.calls

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far, summed over threads: ``waiting`` at the gate, in the ``api``, ``decoding``."""
        return self._tally.seconds

    def abort(self) -> None:
        """End the requests on their way at once, from another thread: they and all later ones are a RunEndingError."""
        self._ended.set()
        self._bucket.abort()

    def close(self) -> None:
        """Close the connections."""
        self._bucket.close()

    def day(self, session: date, timeframe: str, wanted: Collection[str]) -> MarketDayPage:
        """The bars of ``wanted`` stocks on one session, extended hours included; one request, however many they are.

        A request that breaks off keeps what came, and the next one for the same day goes on after it.

        Args:
            session: a date in New York.
            timeframe: one of :data:`DATASETS`.
            wanted: tickers, as the vendor writes them.

        Raises:
            ClosingbellError: see :mod:`closingbell.sources.flatfiles.errors` for what the service refuses,
                :mod:`~closingbell.sources.flatfiles.parse` and :mod:`~closingbell.sources.flatfiles.download` for
                what is refused of an object.
        """
        key = object_of(session, timeframe)
        begun, before = time.perf_counter(), self._gate.waited
        with download.fetched(self._bucket, key, self._folder, self._go_on) as found:
            self._tally.add("api", time.perf_counter() - begun - (self._gate.waited - before))
            with self._tally.time("decoding"):
                page = parse.bars_of(found.path, key, session, timeframe, wanted)
            download.note(found, rows=page.rows)
        return page

    def _go_on(self) -> None:
        if self._ended.is_set():
            raise RunEndingError("the run is ending")


def object_of(session: date, timeframe: str) -> str:
    """The path in the bucket of a day's object.

    Raises:
        ConfigurationError: there are no flat files of such bars.
    """
    if timeframe not in DATASETS:
        fix = "Ask for 1m or 1d, and derive the others."
        raise ConfigurationError("there are no flat files of this timeframe", value=timeframe, fix=fix)
    return f"{DATASETS[timeframe]}/{session:%Y/%m}/{session.isoformat()}.csv.gz"


class _Counted:
    """The flat files' gate, which counts who passes it, and how long they waited; opened with the first call."""

    def __init__(self, gates: Gates, tally: Tally) -> None:
        self._gates = gates
        self._tally = tally
        self._own = threading.local()

    @property
    def waited(self) -> float:
        """Seconds that this thread has waited so far."""
        return getattr(self._own, "waited", 0.0)

    def call(self) -> AbstractContextManager[None]:
        return self._passing()

    @contextmanager
    def _passing(self) -> Iterator[None]:
        asked = time.perf_counter()
        with self._gates.of(QUOTA).call():
            spent = time.perf_counter() - asked
            self._own.waited = self.waited + spent
            self._tally.add("waiting", spent)
            self._tally.call("flat_file")
            yield

    def pause(self, seconds: float | None) -> None:
        self._gates.of(QUOTA).pause(seconds)
