"""One uvicorn process that serves a market until it is told to stop, or its parent is gone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import uvicorn

from closingbell.errors import ConfigurationError
from infra.market.app import App
from infra.market.config import Config


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol is named so that asyncio knows it for TCP and sends small answers without delay.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
        return listener
    except OSError as error:
        raise ConfigurationError(
            "the market cannot listen there",
            value=f"{host}:{port}: {error.strerror or error}",
            fix="Give another --host or --port; --port 0 picks a free one.",
        ) from error


def serve(config: Config, listener: socket.socket, ready: Callable[[], None], parent: int | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        config: what the market is to be.
        listener: where it is served; closed at the end.
        ready: called once the market can answer.
        parent: stop as soon as this process is no longer our parent.
    """
    app = App(config)
    app.market.warm()
    settings = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(settings)
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    ready()
    server.run(sockets=[listener])


def _follow(parent: int) -> None:
    """End this process when the parent has ended, however it ended."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)
