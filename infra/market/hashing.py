"""Random numbers that need no state: each is a hash of (ticker, stream, counter).

Any number can be had without the ones before it, in any process, and a whole array of them in one go.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)

#: Room for counters in one stream; a stream's numbers never meet another's.
_STREAM_BITS: Final = 40


def ticker_hashes(tickers: Iterable[str], seed: int) -> Hashes:
    """One 64-bit hash a ticker, shape (n,), equal in every process."""
    salt = seed.to_bytes(16, "little")
    digests = b"".join(blake2b(t.encode(), digest_size=8, salt=salt).digest() for t in tickers)
    return np.frombuffer(digests, np.uint64)


def uniform(hashes: Hashes, stream: int, counter: Ints) -> Floats:
    """Numbers in [0, 1), of the broadcast shape of ``hashes`` and ``counter`` (splitmix64)."""
    z = hashes + (np.uint64(stream << _STREAM_BITS) + np.atleast_1d(counter).astype(np.uint64)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    z ^= z >> np.uint64(31)
    out: Floats = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return out


def noise(hashes: Hashes, stream: int, at: Ints, period: int) -> Floats:
    """Value noise in [-1, 1]: random at every multiple of ``period``, straight lines between."""
    cell, within = np.divmod(np.atleast_1d(at), period)
    left = uniform(hashes, stream, cell)
    if period == 1:
        return 2.0 * left - 1.0
    right = uniform(hashes, stream, cell + 1)
    return 2.0 * (left + (right - left) * (within / period)) - 1.0


def walk(hashes: Hashes, stream: int, at: Ints, shortest: int = 1, longest: int = 1024) -> Floats:
    """A bounded stand-in for a random walk with unit steps: octaves of noise, louder as they get longer."""
    total: Floats = np.zeros(1)
    period = shortest
    while period <= longest:
        total = total + np.sqrt(period) * noise(hashes, stream + period.bit_length(), at, period)
        period *= 2
    return total * 0.866  # makes the step's standard deviation about 1
