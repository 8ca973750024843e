"""The way to PostgreSQL through a proxy that can break a connection at a given message."""

from __future__ import annotations

import sqlalchemy as sa

from tests.proxy import Proxy

COMMIT = b"Q\0\0\0\x0bCOMMIT\0"


class Wire(Proxy):
    """Use it with ``with``; :attr:`url` leads through it.

    Args:
        url: of a database on loopback.
    """

    def __init__(self, url: sa.URL) -> None:
        super().__init__(url.port or 5432)
        self.url = url.set(host="127.0.0.1", port=self.port)
