"""The bucket, through s3fs: one GET of one object, from an offset on, and nothing that happens behind our back.

Left to itself the client would look an object up before it reads it, try again by itself, and read in pieces: each is
a call that no limiter saw. Here a call is one request, and its body is read as it comes.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import TimeoutError as NotDoneError
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from closingbell.errors import ConfigurationError, RunEndingError
from closingbell.quota import Gate
from closingbell.sources.flatfiles import errors
from closingbell.sources.redact import Redactor

T = TypeVar("T")

#: Bytes of a body that are read, written and hashed at a time.
CHUNK: Final = 1 << 20

#: Bytes of the largest object: no day's minutes have a tenth of it.
LARGEST: Final = 1 << 30

#: Seconds between two looks at whether the run is to end, while an answer is waited for.
_LOOK: Final = 0.1

_TOTAL: Final = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+)")


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer says of its object before its first byte.

    Attributes:
        etag: the object's version, in its quotes.
        start: the first byte that follows.
        total: bytes of the whole object.
    """

    etag: str
    start: int
    total: int


@cache
def _session() -> Any:
    """The client's descriptions of S3, which take half a second to read: once in a process."""
    from aiobotocore.session import AioSession

    return AioSession()


class Bucket:
    """Reads objects of one bucket; safe to use from many threads.

    Args:
        endpoint: of the S3 service, ``http`` or ``https``.
        bucket: its name.
        key: the access key's id.
        secret: the access key's secret.
        gate: what every request passes.
        connect_timeout: seconds for a connection.
        read_timeout: seconds that a body may stay silent.
        call_timeout: seconds that a request may take in all, from the gate's permission to the last byte.

    Raises:
        ConfigurationError: s3fs is not installed.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        key: str,
        secret: str,
        gate: Gate,
        *,
        connect_timeout: float,
        read_timeout: float,
        call_timeout: float,
    ) -> None:
        try:
            from s3fs import S3FileSystem
        except ImportError as error:
            fix = "Install it: pip install 'closingbell[flatfiles]', or unset POLYGON_FLATFILES_KEY."
            raise ConfigurationError("flat files need s3fs", value=error, fix=fix) from None
        self.name = bucket
        self._gate = gate
        self._call_timeout = call_timeout
        self._redactors = (Redactor(secret), Redactor(key))
        self._aborted = threading.Event()
        self._files: Any = S3FileSystem(
            key=key,
            secret=secret,
            endpoint_url=endpoint,
            client_kwargs={"region_name": "us-east-1"},  # the service has no regions, the signature has one
            config_kwargs={
                "connect_timeout": connect_timeout,
                "read_timeout": read_timeout,
                "retries": {"total_max_attempts": 1},
                "s3": {"addressing_style": "path"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "max_pool_connections": 64,
            },
            session=_session(),
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        self._files.retries = 1  # the wrapper's own, around those of the client

    def __repr__(self) -> str:
        return f"Bucket({self.name!r})"

    def abort(self) -> None:
        """End the requests on their way, and let none begin any more: each ends with a RunEndingError."""
        self._aborted.set()

    def close(self) -> None:
        """Close the connections."""
        client = getattr(self._files, "_s3", None)
        if client is not None:
            self._files.close_session(self._files.loop, client)

    def get(self, path: str, start: int, etag: str | None) -> tuple[Head, Iterator[bytes]]:
        """One request for an object from byte ``start`` on, and its body, to be read to the end or let go.

        Args:
            path: the object's key in the bucket.
            start: the first byte asked for.
            etag: the version that the bytes before are of; None: whichever there is.

        Raises:
            ClosingbellError: as :mod:`closingbell.sources.flatfiles.errors` says; from the body as well.
        """
        wanted: dict[str, str] = {"Bucket": self.name, "Key": path}
        if start:
            wanted["Range"] = f"bytes={start}-"
        if etag is not None:
            wanted["IfMatch"] = etag
        with self._gate.call():
            until = time.monotonic() + self._call_timeout
            answer = self._run(self._files._call_s3("get_object", **wanted), path, until)
        head = self._head(answer, path, start)
        return head, self._chunks(answer["Body"], path, until)

    def _head(self, answer: dict[str, Any], path: str, start: int) -> Head:
        total, first = int(answer["ContentLength"]), 0
        if said := _TOTAL.fullmatch(str(answer.get("ContentRange") or "")):
            total, first = int(said["total"]), int(said["first"])
        if first not in (0, start):
            raise errors.malformed("the flat file's answer begins elsewhere than asked", path, f"byte {first}")
        if total > LARGEST:
            raise errors.malformed("the flat file is larger than any can be", path, f"{total:,} bytes")
        return Head(str(answer.get("ETag") or ""), first, total)

    def _chunks(self, body: Any, path: str, until: float) -> Iterator[bytes]:
        try:
            while chunk := self._run(body.read(CHUNK), path, until, cut=True):
                yield chunk
        finally:
            body.close()

    def _run(self, work: Coroutine[Any, Any, T], path: str, until: float, *, cut: bool = False) -> T:
        """Wait for what runs in the client's own thread, until an instant; its errors become ours, without the keys."""
        future = asyncio.run_coroutine_threadsafe(work, self._files.loop)
        while True:
            if self._aborted.is_set():
                future.cancel()
                raise RunEndingError("the run is ending", value=path)
            try:
                return future.result(_LOOK)
            except NotDoneError as error:
                failed: Exception = error
                if not future.done() and time.monotonic() < until:
                    continue
                future.cancel()
            except Exception as error:  # noqa: BLE001  (the client lets any library's error through)
                failed = error
            break
        # Raised here, where nothing is being handled: the client's own exception may quote a signed request.
        found = errors.of_exception(failed, path, cut=cut)
        if getattr(found, "status", None) in (429, 503):
            self._gate.pause(getattr(found, "retry_after", None))
        for redact in self._redactors:
            redact.clean(found)
        raise found
