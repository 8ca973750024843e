"""The gates of one run: one for each quota, opened when its first call, or a plan with such calls, needs it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from closingbell.errors import RetryableError, RunEndingError
from closingbell.quota import Quota, Quotas
from tasks.limiter import PrefectGate

log = logging.getLogger("closingbell.limiter")

#: Seconds for which a run waits for a Prefect server that is away as the run begins, and between two looks at it.
PATIENCE: Final = 120.0
_AGAIN: Final = 1.0


class Gates:
    """The way to each asset class's limit. Safe for use from many threads.

    Args:
        quotas: what the settings say.
        key: the name of the vendor's key, where several are in use; part of every limit's name.
        call_timeout, books: as for :class:`~tasks.limiter.PrefectGate`.
        patience: seconds for which a Prefect server that is away is waited for when a gate is to be opened.
    """

    def __init__(
        self,
        quotas: Quotas,
        *,
        key: str = "",
        call_timeout: float = 120.0,
        books: Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.quotas = quotas
        self._key = key
        self._call_timeout = call_timeout
        self._books = books
        self._patience = patience
        self._open: dict[str, PrefectGate] = {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def of(self, asset_class: str) -> PrefectGate:
        """The gate that calls of this class pass, opened if it is not yet.

        Raises:
            RunEndingError: the run is stopped.
            ClosingbellError: as :class:`~tasks.limiter.PrefectGate` says.
        """
        holder = self.quotas.holder(asset_class)
        with self._lock:
            if holder not in self._open:
                self._open[holder] = gate = self._opened(holder)
                if self._stopped.is_set():  # meanwhile
                    gate.stop()
            return self._open[holder]

    def _opened(self, holder: str) -> PrefectGate:
        begun = time.monotonic()
        while not self._stopped.is_set():
            try:
                return PrefectGate(
                    self.quotas.of(holder), holder, key=self._key, call_timeout=self._call_timeout, books=self._books
                )
            except RetryableError as error:
                if time.monotonic() - begun > self._patience:
                    raise
                log.warning("%s: %s; trying again", error.what, error.value)
            self._stopped.wait(_AGAIN)
        raise RunEndingError("the run is ending")

    @property
    def in_force(self) -> InForce:
        """The quotas as the limits have them, each opened when it is asked for."""
        return InForce(self)

    def looked_at(self) -> list[str]:
        """The holders of the quotas whose gates are open."""
        return list(self._open)

    def opened(self) -> list[PrefectGate]:
        """The gates that are open."""
        return list(self._open.values())

    def stop(self) -> None:
        """Let no further call begin: who waits, and whoever comes, gets a RunEndingError at once."""
        self._stopped.set()  # without the lock, which whoever opens a gate holds while the server takes its time
        for gate in self.opened():
            gate.stop()

    def expect(self, calls: Mapping[str, int]) -> None:
        """Be ready for so many calls of each asset class, as far as its gate is open."""
        for name, count in calls.items():
            if gate := self._open.get(self.quotas.holder(name)):
                gate.expect(count)

    def leave(self) -> None:
        """There will be no further call: begin to give the slots back, while the run does something else."""
        self.stop()
        for gate in self.opened():
            gate.leave()

    def close(self, *, wait: bool = True) -> None:
        """Give the slots back; see :meth:`PrefectGate.close`."""
        self.stop()
        gates = self.opened()
        closing = [threading.Thread(target=gate.close, kwargs={"wait": wait}, daemon=True) for gate in gates]
        for each in closing:
            each.start()
        try:
            for each in closing:
                each.join()
        except BaseException:  # Ctrl-C while a window is waited for
            for gate in gates:
                gate.close(wait=False)
            raise

    def __enter__(self) -> Gates:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=kind is None)


class InForce:
    """The quotas as a run's limits have them: a person may have changed their numbers of calls."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    def holder(self, asset_class: str) -> str:
        """The class whose quota the calls of this one use up."""
        return self._gates.quotas.holder(asset_class)

    def of(self, asset_class: str) -> Quota:
        """The quota of that holder."""
        return self._gates.of(asset_class).in_force

    def __str__(self) -> str:
        """Those that the run has looked at so far."""
        found = {self.holder(name): self.of(name) for name in self._gates.looked_at()}
        return ", ".join(str(quota) if name == "stocks" else f"{name} {quota}" for name, quota in found.items())
