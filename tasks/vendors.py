"""The vendor of a run: its source, and the gates that every call of it passes, opened by the name in the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from closingbell.errors import ConfigurationError, FatalError
from closingbell.settings import DATABENTO, Settings
from closingbell.sources.base import Source
from closingbell.sources.flatfiles import FlatFiles
from closingbell.sources.polygon import PolygonSource
from infra import embedded
from tasks.gates import Gates


class Abortable(Source, Protocol):
    """A source that a run can stop."""

    def abort(self) -> None:
        """End what is on its way, as far as that can be done, and make no further call."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """What a run's calls go through.

    Attributes:
        name: as in the tables: ``polygon``, ``stand-in``, ``databento``.
        source: every call of which passes ``gate``.
        gate: the quotas of all asset classes.
        flat: the same vendor's flat files, where the settings have keys for them.
        market: the address of the stand-in market, where that is the vendor.
    """

    name: str
    source: Abortable
    gate: Gates = field(repr=False)
    flat: FlatFiles | None = None
    market: str | None = None

    @property
    def calls(self) -> int:
        """HTTP attempts so far that a quota counts."""
        return sum(sum(each.calls.values()) for each in (self.source, self.flat) if each)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far by stage, summed over threads; see :attr:`Source.seconds`."""
        spent = Counter(self.source.seconds)
        spent.update(self.flat.seconds if self.flat else {})
        return dict(spent)

    def abort(self) -> None:
        """End what is on its way, as far as that can be done, and make no further call."""
        self.gate.stop()
        self.source.abort()
        if self.flat:
            self.flat.abort()


@contextmanager
def opened(name: str, settings: Settings, market: str | None = None) -> Iterator[Vendor]:
    """A vendor, for the time of the block; the stand-in market is started or joined where it is the vendor.

    Args:
        name: as in the tables.
        settings: its keys, quotas and limits.
        market: the stand-in's address, where another process of the run has it.

    Raises:
        ConfigurationError: a setting is not fit for it.
    """
    with ExitStack() as stack:
        if name == DATABENTO:
            key, call_timeout = DATABENTO, settings.databento_timeout
        else:
            key, call_timeout = settings.polygon_key_name, settings.longest_call
        books = settings.closingbell_home / "leases"
        quotas = settings.quotas_of(name)
        gate = stack.enter_context(Gates(quotas, key=key, call_timeout=call_timeout, books=books))
        if name == settings.source and settings.uses_stand_in:
            market = market or stack.enter_context(embedded.market(settings, []))
        polygon = name != DATABENTO
        source: Abortable = _polygon(name, settings, gate, market, stack) if polygon else settings.databento(gate)
        flat = _flat_files(settings, gate, stack) if name == "polygon" and settings.has_flat_files else None
        yield Vendor(name, source, gate, flat, market)


def _flat_files(settings: Settings, gate: Gates, stack: ExitStack) -> FlatFiles:
    key, secret = settings.polygon_flatfiles_key, settings.polygon_flatfiles_secret
    if key is None or secret is None:
        raise FatalError("flat files were opened without their keys")
    files = FlatFiles(
        key.get_secret_value(),
        secret.get_secret_value(),
        gate,
        settings.closingbell_home / "flatfiles",
        endpoint=settings.polygon_flatfiles_url,
        bucket=settings.polygon_flatfiles_bucket,
        connect_timeout=settings.polygon_connect_timeout,
        read_timeout=settings.polygon_read_timeout,
        call_timeout=settings.polygon_call_timeout,
    )
    stack.callback(files.close)
    return files


def _polygon(name: str, settings: Settings, gate: Gates, market: str | None, stack: ExitStack) -> PolygonSource:
    if name != settings.source:
        raise ConfigurationError(
            "these bars are of another vendor than the settings name",
            value=f"{name}, not {settings.source}",
            fix="Set POLYGON_API_KEY for polygon, unset it for the stand-in market.",
        )
    base_url, key = settings.polygon_base_url, settings.polygon_api_key
    if key is None:
        base_url, key = market or base_url, SecretStr(embedded.STAND_IN_KEY)
    source = PolygonSource(
        key.get_secret_value(),
        base_url,
        gate,
        connect_timeout=settings.polygon_connect_timeout,
        read_timeout=settings.polygon_read_timeout,
        call_timeout=settings.polygon_call_timeout,
        call_timeouts=settings.call_timeouts,
        pool_size=settings.fetch_threads,
    )
    stack.callback(source.close)
    return source
