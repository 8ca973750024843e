"""Which leases this machine's processes hold, on disk, so that those of a killed one are not waited for.

Prefect takes a slot back when its lease has run out, a minute or more after its holder died. On the machine
where it died that is known at once: each process keeps a book of its leases, locked for as long as it lives.
Who finds a book that nobody has locked gives its leases back, one quota window later.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import IO, Final
from uuid import UUID, uuid4

_LEASE: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LeaseBook:
    """The leases of one gate: a file with a line for each taken (``+``) and given back (``-``).

    Args:
        folder: where the books of one limit lie, below ``CLOSINGBELL_HOME``.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / f"{uuid4()}.leases"
        self._file = self._path.open("a", buffering=1)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def took(self, lease: UUID) -> None:
        """Note a lease; a line in the page cache survives the process, if not the machine."""
        self._file.write(f"+{lease}\n")

    def gave(self, lease: UUID) -> None:
        """Strike a lease out."""
        self._file.write(f"-{lease}\n")

    def close(self) -> None:
        """Put the book away; with leases still in it, it is left for another process to find."""
        try:
            with self._path.open() as book:
                if not _open_leases(book):
                    self._path.unlink()
        except OSError:  # someone cleaned up
            pass
        self._file.close()

    def orphans(self) -> list[UUID]:
        """Leases whose holder is dead, each told to one process only: their books are gone after this."""
        found: list[UUID] = []
        for path in self._folder.glob("*.leases"):
            if path == self._path:
                continue
            try:
                with path.open(errors="replace") as book:
                    fcntl.flock(book, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Whoever locks a book that another has read and removed meanwhile finds it gone from the folder.
                    if path.exists() and os.fstat(book.fileno()).st_ino == path.stat().st_ino:
                        found += _open_leases(book)
                        path.unlink()
            except OSError:  # its holder lives, it is gone, or it is another user's
                continue
        return found


def _open_leases(book: IO[str]) -> list[UUID]:
    """The leases taken and not given back; half a line, from a process killed while writing, is passed over."""
    open_: dict[str, None] = {}
    for line in book:
        sign, text = line[:1], line[1:].strip()
        if sign == "+":
            open_[text] = None
        elif sign == "-":
            open_.pop(text, None)
    return [UUID(text) for text in open_ if _LEASE.fullmatch(text)]
