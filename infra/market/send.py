"""Putting an answer on the wire, whole or, when a fault says so, not."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import numpy as np
from starlette.types import Send

from infra.market.faults import Rule
from infra.market.query import TOO_MANY
from infra.market.wire import quote

JSON: Final = "application/json"

_PIECES: Final = 40


@dataclass(slots=True)
class Answer:
    """A status, headers and the bytes of a body as they go out."""

    status: int
    body: bytes
    rows: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = JSON

    def start(self, length: int | None = None) -> dict[str, Any]:
        """The ASGI message that opens the response."""
        headers: Mapping[str, str] = {
            "content-type": self.kind,
            "content-length": str(len(self.body) if length is None else length),
            **self.headers,
        }
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": self.status, "headers": pairs}


def nginx_page(status: int) -> bytes:
    """What a proxy in front of the vendor says when the vendor does not."""
    title = f"{status} {HTTPStatus(status).phrase}" if status in HTTPStatus._value2member_map_ else str(status)
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


def replaced(answer: Answer, rule: Rule, request_id: str) -> Answer:
    """The answer that a fault of ``status``, body or encoding puts in the place of a good one."""
    if rule.action == "status":
        return _status(rule, request_id)
    if rule.action == "html":
        status = rule.status if rule.status != 500 else 200
        return Answer(status, nginx_page(status), headers=rule.headers, kind="text/html")
    if rule.action == "garbage":
        return Answer(200, np.random.default_rng(rule.bytes).bytes(rule.bytes), headers=rule.headers)
    if rule.action == "bomb":
        return Answer(200, _bomb(rule.bytes), headers={**rule.headers, "content-encoding": "gzip"})
    if rule.action == "truncate":
        return Answer(answer.status, answer.body[: len(answer.body) // 2], answer.rows, answer.headers, answer.kind)
    return answer


def _bomb(size: int) -> bytes:
    """``size`` spaces, a thousandth of it when zipped."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16), b" " * (1 << 20)
    pieces = [packer.compress(piece[: min(len(piece), size - at)]) for at in range(0, size, len(piece))]
    return b"".join([*pieces, packer.flush()])


def _status(rule: Rule, request_id: str) -> Answer:
    if isinstance(rule.body, dict):
        return Answer(rule.status, quote(rule.body).encode(), headers=rule.headers)
    if rule.body is not None:
        return Answer(rule.status, rule.body.encode(), headers=rule.headers)
    if rule.status == 429:
        body = {"status": "ERROR", "request_id": request_id, "error": TOO_MANY}
        return Answer(429, quote(body).encode(), headers=rule.headers)
    return Answer(rule.status, nginx_page(rule.status), headers=rule.headers, kind="text/html")


async def deliver(send: Send, answer: Answer, rule: Rule | None) -> None:
    """Send an answer, slowly or in part when the rule says so."""
    action = rule.action if rule else ""
    half = len(answer.body) // 2
    if rule and action == "stall":
        if rule.when == "head":
            await asyncio.sleep(rule.seconds)
        else:
            await send(answer.start())
            await send({"type": "http.response.body", "body": answer.body[:half], "more_body": True})
            await asyncio.sleep(rule.seconds)
            await send({"type": "http.response.body", "body": answer.body[half:]})
            return
    if rule and action == "reset":
        if rule.when == "body" or half:
            await send(answer.start(max(2, len(answer.body))))
            await send({"type": "http.response.body", "body": answer.body[:half], "more_body": True})
            await asyncio.sleep(0.02)  # lets the first half leave before the connection is torn down
        _reset(send)
        return
    if action == "endless":
        await _send_on(send, answer)
        return
    await send(answer.start())
    if rule and action == "drip":
        step = max(1, len(answer.body) // _PIECES)
        for start in range(0, len(answer.body), step):
            await asyncio.sleep(rule.seconds / _PIECES)
            await send({"type": "http.response.body", "body": answer.body[start : start + step], "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.body", "body": answer.body})


async def _send_on(send: Send, answer: Answer) -> None:
    """A body of spaces without a length, for as long as anybody reads it."""
    started = answer.start()
    unsized = [
        (name, value) for name, value in started["headers"] if name not in (b"content-length", b"content-encoding")
    ]
    await send({**started, "headers": unsized})
    transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]  # uvicorn's cycle
    while not transport.is_closing():
        await send({"type": "http.response.body", "body": b" " * (1 << 16), "more_body": True})


def _reset(send: Send) -> None:
    """Tear the connection down the hard way: the peer sees a reset, not an end."""
    transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]  # uvicorn's cycle
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
