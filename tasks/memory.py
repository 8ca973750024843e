"""What a run's process does about memory: it gives back what it does not need, and looks for no garbage in vain."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

#: glibc's names for what can be set (malloc.h).
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8

#: Bytes from which on a block is the system's own and goes back to it at once: the bars of ten years are larger.
_OWN: Final = 128 * 1024

#: Heaps that the threads share. By default it is eight a processor, each with what its threads once left in it.
_ARENAS: Final = 1


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc; None: another one, which has none of this."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@cache
def give_back() -> None:
    """Have the blocks of columns, which come and go by the thousand, go back to the system when they are done with.

    glibc learns from the first of them to keep such blocks (mallopt(3), *dynamic mmap threshold*): a run of millions of
    bars would hold about 30 MB more. A thread that has a heap by then keeps it: the sooner this is called, the better.
    With another C library there is nothing to do.
    """
    if libc := _glibc():
        libc.mallopt(_MMAP_THRESHOLD, _OWN)
        libc.mallopt(_ARENA_MAX, _ARENAS)


def sweep() -> None:
    """Give the system back what lies free between the blocks in use: a few milliseconds.

    Answers and columns of all sizes come and go in many threads; after a few million bars what lies free between what
    stays would be 20 MB and more (malloc_trim(3)).
    """
    if libc := _glibc():
        libc.malloc_trim(0)


def keep_modules() -> None:
    """Take what is loaded by now for such as stays, until :func:`settled` does: a run would begin by searching it."""
    gc.freeze()


@contextmanager
def settled() -> Iterator[None]:
    """Take all objects that there are for such as stay, for the time of the block.

    The garbage collector otherwise goes through the quarter of a million objects of the loaded modules time and again,
    for an eighth of a second each in which no other thread goes on, while those that a run makes go by themselves.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
