"""Response bodies that are built and compressed once, though each answer carries its own request id."""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from typing import Final

from infra.market.wire import Payload

_LEVEL: Final = 1
_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Front:
    """The part of a body that equal requests share, plain and deflated.

    The deflated form ends on a byte boundary, so any ending can be compressed and put behind it: together
    they are one ordinary gzip member.
    """

    def __init__(self, plain: bytes, rows: int) -> None:
        self.plain, self.rows = plain, rows
        self._deflated: bytes | None = None
        self._crc = 0

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self.plain) + len(self._deflated or b"")

    def gzip(self, back: bytes) -> bytes:
        """The whole body, compressed."""
        if self._deflated is None:
            packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
            self._crc = zlib.crc32(self.plain)
            self._deflated = packer.compress(self.plain) + packer.flush(zlib.Z_FULL_FLUSH)
        ending = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        trailer = struct.pack("<LL", zlib.crc32(back, self._crc), (len(self.plain) + len(back)) & 0xFFFFFFFF)
        return _HEADER + self._deflated + ending.compress(back) + ending.flush() + trailer


class Fronts:
    """The most recently used fronts, up to a number of bytes."""

    def __init__(self, limit: int = 192 << 20) -> None:
        self._limit, self._held = limit, 0
        self._kept: OrderedDict[object, tuple[int, Front, Payload]] = OrderedDict()

    def get(self, key: object) -> tuple[Front, Payload] | None:
        """An equal request's front, and what gives its back, if still held."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][1:]

    def put(self, key: object, front: Front, tail: Payload) -> None:
        """Hold one more, letting go of the least recently used."""
        size = front.size * 2
        self._kept[key] = (size, front, tail)
        self._held += size
        while self._held > self._limit and self._kept:
            self._held -= self._kept.popitem(last=False)[1][0]
