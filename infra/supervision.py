"""Keeping parts running: what dies is started again where it was, so that everyone finds it there.

Each part has a thread that looks at it, for a part that takes long to come back must not hold up another. A part
that dies again and again is given up, with what it said last: then a person has to look.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from closingbell.errors import ClosingbellError, FatalError

#: A part is given up when it has ended so often within so many seconds, or so often without getting ready between.
MOST: Final = 5
WITHIN: Final = 60.0

#: Seconds between two looks at a part.
_LOOK: Final = 0.2


class Part(Protocol):
    """Something that is to run for as long as the supervisor does."""

    @property
    def name(self) -> str:
        """What it is, for people: ``the worker``."""

    def ended(self) -> str | None:
        """How it ended, in words: ``was killed``. None while it runs."""

    def revive(self, stopping: Callable[[], bool]) -> None:
        """Start it again where it was; return when it is ready, or soon after ``stopping()`` is true.

        Raises:
            ClosingbellError: it does not get ready.
        """


class Supervisor:
    """Keeps parts running until it is told to stop, which has to be before they are; a context manager.

    Args:
        say: told a line when a part has ended, and when it is back; called from several threads.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failure: FatalError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Start nothing again from now on."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def keep(self, part: Part) -> None:
        """Start the part again whenever it ends, from now on."""
        run = contextvars.copy_context().run  # Prefect's settings are context variables
        thread = threading.Thread(target=run, args=(self._keep, part), name=f"supervisor of {part.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def repeat(self, action: Callable[[], None], seconds: float) -> None:
        """Do something again and again, so many seconds after it was done."""
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(self._repeat, action, seconds), daemon=True)
        self._threads.append(thread)
        thread.start()

    def check(self) -> None:
        """Raise when a part had to be given up.

        Raises:
            FatalError: it ended too often; says what it said last.
        """
        if self._failure:
            raise FatalError(self._failure.what, value=self._failure.value, fix=self._failure.fix)

    def _repeat(self, action: Callable[[], None], seconds: float) -> None:
        while not self._over.wait(seconds):
            try:
                action()
            except Exception as bug:  # noqa: BLE001  (the next time may do better)
                self._say(f"what is done each {seconds:.0f} s failed: {bug!r}")

    def _keep(self, part: Part) -> None:
        try:
            self._look_after(part)
        except Exception as bug:  # noqa: BLE001  (in a thread nobody else would learn of it)
            self._give_up(part, repr(bug))

    def _look_after(self, part: Part) -> None:
        ends: deque[float] = deque(maxlen=MOST)
        in_vain, how = 0, None
        while not self._over.wait(_LOOK):
            how = how or part.ended()
            if how is None:
                continue
            begun = time.monotonic()
            ends.append(begun)
            if len(ends) == MOST and begun - ends[0] < WITHIN:
                return self._give_up(part, f"{MOST} times within {WITHIN:.0f} seconds")
            delay = _delay(sum(begun - end < WITHIN for end in ends))
            self._say(f"{part.name} {how}; starting it again{f' in {delay} s' if delay else ''}")
            if self._over.wait(delay):
                return None
            try:
                part.revive(self._over.is_set)
            except ClosingbellError as error:
                in_vain, how = in_vain + 1, "did not come back"
                if in_vain == MOST:
                    return self._give_up(part, str(error))
            else:
                in_vain, how = 0, None
                if not self._over.is_set():
                    self._say(f"{part.name} is back after {time.monotonic() - begun:.0f} s")
        return None

    def _give_up(self, part: Part, why: str) -> None:
        self._failure = FatalError(
            f"{part.name} ends again and again", value=why, fix="Look at its log in CLOSINGBELL_HOME/logs."
        )


def _delay(ends: int) -> int:
    """Seconds to wait after so many ends lately: none after the first, then 1, 2, 4."""
    return 2 ** (ends - 2) if ends > 1 else 0
