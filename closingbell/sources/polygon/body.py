"""A response's body, whole or not at all: bounded in bytes, and unzipped with its checksum checked."""

from __future__ import annotations

import zlib

import urllib3

from closingbell.errors import MalformedResponseError

_CHUNK = 1 << 16
_GZIP = zlib.MAX_WBITS | 16


def read(response: urllib3.BaseHTTPResponse, subject: str, most: int) -> bytes:
    """The body of ``response``, decoded.

    Args:
        response: opened, with its body unread.
        subject: what was asked, for the error's text.
        most: bytes that the body may have, before and after unzipping.

    Raises:
        MalformedResponseError: it is larger than ``most``, in an encoding that was not asked for, or its gzip stream
            is cut short, corrupt, or not all there is. (The client library's own decoder passes one that ends early.)
        urllib3.exceptions.HTTPError: the connection broke off or fell silent.
    """
    raw = _raw(response, subject, most)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return raw
    if encoding not in ("gzip", "x-gzip"):
        raise MalformedResponseError(
            "the answer is in an encoding that was not asked for", value=f"{encoding}, {subject}"
        )
    return _unzip(raw, subject, most)


def read_error(response: urllib3.BaseHTTPResponse, most: int = 1 << 16) -> bytes:
    """The body of an error's response as far as it can be had: its status says enough without it."""
    try:
        return read(response, "", most)
    except (urllib3.exceptions.HTTPError, OSError, MalformedResponseError):
        return b""


def _raw(response: urllib3.BaseHTTPResponse, subject: str, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    for chunk in response.stream(_CHUNK, decode_content=False):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise _too_large(subject, most)
    return b"".join(chunks)


def _unzip(raw: bytes, subject: str, most: int) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    try:
        body = stream.decompress(raw, most + 1)
    except zlib.error as error:
        problem = str(error)
    else:
        if len(body) > most:
            raise _too_large(subject, most)
        if stream.eof and not stream.unused_data:
            return body
        problem = "something follows its end" if stream.eof else "it ends early"
    raise MalformedResponseError("the answer's gzip stream is broken", value=f"{subject}: {problem}", fix="Ask again")


def _too_large(subject: str, most: int) -> MalformedResponseError:
    return MalformedResponseError("the answer is larger than any page", value=f"{subject}: over {most:,} bytes")
