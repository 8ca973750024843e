"""What the other packages provide where a setting is missing, found by entry point: no import points at them.

The group is ``closingbell.provider``: ``database`` is a PostgreSQL for an unset DATABASE_URL, ``secrets`` completes
settings with what is kept elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import entry_points
from typing import Any

from closingbell.errors import ConfigurationError, RetryableError
from closingbell.settings import Settings

log = logging.getLogger(__name__)


def provider(name: str) -> Any:
    """What is registered under a name; None where nothing is."""
    return next((entry.load() for entry in entry_points(group="closingbell.provider", name=name)), None)


def with_secrets(settings: Settings, *, key: bool = False, warn: Callable[[str], None] = log.warning) -> Settings:
    """The settings with the secrets that a Prefect server's blocks hold, where one is named and is needed for them.

    Args:
        settings: as read.
        key: whether the vendor's key is needed, beside the database's URL.
        warn: told why there are none, when the server is away.
    """
    complete_here = settings.database_url and (settings.polygon_api_key or not key)
    if complete_here or not settings.prefect_api_url or (complete := provider("secrets")) is None:
        return settings
    try:
        completed: Settings = complete(settings)
    except RetryableError as error:
        warn(str(error))  # what is stored can be looked at without it
        return settings
    return completed


def existing_database(settings: Settings, stack: ExitStack) -> str:
    """The URL of the database that the settings name, or of the embedded one, which runs as long as the stack stands.

    Raises:
        ConfigurationError: there is neither, or nobody has put anything into the embedded one.
    """
    if settings.database_url:
        return settings.database_url.get_secret_value()
    database = provider("database")
    if database is None or not (settings.closingbell_home / "postgres").is_dir():
        raise ConfigurationError(
            "there is no database to read",
            value=f"DATABASE_URL is not set, and {settings.closingbell_home} holds none",
            fix="Set DATABASE_URL, or CLOSINGBELL_HOME to the folder of an earlier run; closingbell ingest makes one.",
        )
    url: str = stack.enter_context(database(settings, []))
    return url
