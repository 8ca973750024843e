"""The stack that stands at a home, announced so that other processes of the same home can join it.

``stack.json`` says where its parts are, and holds no secret. It is believed only while the stack holds
``stack.lock``, which the kernel drops with the process; a file that a kill left behind is therefore ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from closingbell.errors import ConfigurationError, FatalError
from closingbell.settings import Settings

_ANNOUNCED_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the parts of a running stack are.

    Attributes:
        pid: the process that keeps it.
        prefect_api_url: the Prefect server's API.
        market_url: the stand-in market; None if the stack runs against the real vendor.
        market: what that market serves, as :func:`market_identity` says it.
        serves: whether a worker takes runs, so that a deployment can be run here.
    """

    pid: int
    prefect_api_url: str
    market_url: str | None = None
    market: dict[str, Any] | None = None
    serves: bool = False


def market_identity(settings: Settings) -> dict[str, Any]:
    """What makes two stand-in markets the same: only one that serves the same bars at the same quota is joined."""
    return {
        "size": settings.market_size,
        "seed": settings.market_seed,
        "replay": str(settings.market_replay.resolve()) if settings.market_replay else None,
        "quota": str(settings.quota),
        "now": settings.closingbell_now.isoformat() if settings.closingbell_now else None,
    }


def read(home: Path) -> Standing | None:
    """The stack that stands at ``home``; None if there is none. Waits for one that is being set up."""
    deadline = time.monotonic() + _ANNOUNCED_SECONDS
    while is_claimed(home):
        try:
            return Standing(**json.loads((home / "stack.json").read_text()))
        except (OSError, ValueError, TypeError):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.1)
    return None


@contextlib.contextmanager
def claim(home: Path) -> Iterator[None]:
    """Be the stack of ``home`` for the time of the block.

    Raises:
        ConfigurationError: another process is.
        FatalError: the home cannot be written.
    """
    with _writing(home):
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home / "stack.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigurationError(
            "a closingbell stack is running here already",
            value=home,
            fix="Use that one, stop it first (Ctrl-C in its terminal), or set another CLOSINGBELL_HOME.",
        ) from None
    try:
        (home / "stack.json").unlink(missing_ok=True)  # of a stack that was killed
        yield
    finally:
        (home / "stack.json").unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def _writing(home: Path) -> Iterator[None]:
    """Raises: FatalError: the home cannot be written."""
    try:
        yield
    except OSError as error:
        raise FatalError(
            "CLOSINGBELL_HOME cannot be written",
            value=f"{home} ({error.strerror})",
            fix="Make it writable, free some space, or set CLOSINGBELL_HOME elsewhere.",
        ) from None


def announce(home: Path, standing: Standing) -> None:
    """Say where the parts are; the caller has claimed ``home``."""
    written = home / "stack.json.new"
    written.unlink(missing_ok=True)
    written.touch(mode=0o600)
    written.write_text(json.dumps(asdict(standing), indent=1) + "\n")
    written.replace(home / "stack.json")


def is_claimed(home: Path) -> bool:
    """Whether a stack stands at ``home``, or is being set up there."""
    try:
        lock = os.open(home / "stack.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextlib.contextmanager
def guest(home: Path) -> Iterator[None]:
    """Use the stack of ``home`` for the time of the block: one that serves only runs waits for its guests.

    Raises:
        FatalError: the home cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with _writing(home):
            home.mkdir(parents=True, exist_ok=True)
            guests = stack.enter_context(_file(home / "stack.guests"))
        fcntl.flock(guests, fcntl.LOCK_SH)
        yield


def wait_for_guests(home: Path) -> None:
    """Return when no other process uses the stack of ``home`` any more."""
    (home / "stack.json").unlink(missing_ok=True)  # nobody new
    with _file(home / "stack.guests") as guests:
        fcntl.flock(guests, fcntl.LOCK_EX)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
