"""A local S3 server: moto's, over real HTTP, with a log of requests and answers that can be cut off."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "flatfiles"

#: Whoever signs may do all: moto does not look at the signature.
_OWNER = "AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


class _Silent(WSGIRequestHandler):
    """Logs nothing: a request's log is :attr:`S3.log`."""

    def log(self, *_: Any) -> None:
        """Say nothing."""


#: Seconds: what a client has received and not yet read when its connection breaks, it does not hand on.
_BEFORE_THE_CUT = 0.5


@dataclass
class Request:
    """One GET of an object, and how many bytes of it left."""

    path: str
    range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class S3:
    """The server. ``cut_after`` and ``refuse`` are of the next requests, in order; ``stall`` holds answers back."""

    url: str = ""
    log: list[Request] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    refuse: list[tuple[int, str]] = field(default_factory=list)
    stall: threading.Event | None = None
    objects: dict[str, bytes] = field(default_factory=dict, repr=False)

    def __enter__(self) -> S3:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True, request_handler=_Silent)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.put("", b"")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def put(self, key: str, body: bytes) -> None:
        """Make an object; with no key, the bucket."""
        import httpx

        self.objects[key] = body
        url = f"{self.url}/{BUCKET}/{key}".rstrip("/")
        httpx.put(url, content=body, headers={"Authorization": _OWNER}).raise_for_status()

    def clear(self) -> None:
        """Forget the log and what was planned."""
        self.log.clear()
        self.cut_after.clear()
        self.refuse.clear()
        self.stall = None

    def _app(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            return self._moto(environ, start)  # type: ignore[no-any-return]
        asked = Request(environ["PATH_INFO"], environ.get("HTTP_RANGE"))
        self.log.append(asked)
        if self.stall:
            self.stall.wait(10)
        if self.refuse:
            status, code = self.refuse.pop(0)
            asked.status = status
            start(f"{status} {code}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>canary-secret-1 {code}</Message></Error>".encode()]

        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            asked.status = int(status[:3])
            return start(status, headers, *more)

        return self._sent(asked, b"".join(self._moto(environ, started)))

    def _sent(self, asked: Request, body: bytes) -> Iterator[bytes]:
        cut = self.cut_after.pop(0) if self.cut_after and asked.status in (200, 206) else None
        whole = body if cut is None else body[:cut]
        asked.sent = len(whole)
        yield whole
        if cut is not None:
            time.sleep(_BEFORE_THE_CUT)
            raise ConnectionAbortedError  # the server closes the connection, short of its Content-Length
