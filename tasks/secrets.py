"""Keys and passwords from Prefect blocks, for those that prefer them there to the environment.

A secret that the environment does not set is looked for on the Prefect server, under the name of its setting: the
Secret block ``closingbell-polygon-api-key`` for ``POLYGON_API_KEY``, and so on. The database, of either kind, may be a
SQLAlchemy Connector block of that name as well. A block that is not there is no error; one that cannot be used is.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import sqlalchemy as sa
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings
from pydantic import SecretStr, ValidationError

from closingbell.errors import ConfigurationError, RetryableError
from closingbell.settings import SECRETS, Settings

_SECRET: Final = "secret"  # noqa: S105  (the slug of a type of block)
_CONNECTOR: Final = "sqlalchemy-connector"


def block_name(setting: str) -> str:
    """The block that holds a setting: the prefix keeps other projects' blocks on the same server out of it."""
    return f"closingbell-{setting.replace('_', '-')}"


def complete(settings: Settings) -> Settings:
    """The settings, with what they lack of keys and passwords taken from Prefect's blocks, in one call.

    Raises:
        ConfigurationError: the server refuses to say, or a block holds something else.
        RetryableError: the server does not answer: whether there is a key is then not known, and to go on without one
            would be to work against the stand-in market.
    """
    missing = {block_name(name): name for name in SECRETS if getattr(settings, name) is None}
    if not missing or not get_current_settings().api.url:
        return settings
    # Where there are both, the Secret counts: it comes last.
    blocks = sorted(_read(list(missing)), key=lambda block: block["block_type"]["slug"] == _SECRET)
    found = {missing[block["name"]]: _value(block) for block in blocks if _fits(block, missing[block["name"]])}
    return settings.model_copy(update=found)


def _read(names: list[str]) -> list[dict[str, Any]]:
    asked = {
        "block_documents": {"name": {"any_": names}},
        "block_types": {"slug": {"any_": [_SECRET, _CONNECTOR]}},
        "include_secrets": True,
    }
    try:
        with get_client(sync_client=True) as client:
            answer: list[dict[str, Any]] = client.request("POST", "/block_documents/filter", json=asked).json()
            return answer
    except httpx.TransportError as error:
        what, why, fix = "the Prefect server does not answer", type(error).__name__, "Start it, or correct"
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status not in (408, 429) and not error.response.is_server_error:
            raise ConfigurationError(
                "the Prefect server does not let its blocks be read",
                value=f"HTTP {status}",
                fix="Check PREFECT_API_URL and the rights of its key, or set the secrets in the environment.",
            ) from None
        what, why, fix = "the Prefect server cannot say whether it has a key", f"HTTP {status}", "Look at"
    raise RetryableError(what, value=why, fix=f"{fix} PREFECT_API_URL, or set the secrets in the environment.")


def _fits(block: dict[str, Any], setting: str) -> bool:
    return block["block_type"]["slug"] == _SECRET or setting == "database_url"


def _value(block: dict[str, Any]) -> SecretStr:
    """What a block holds; no error quotes it."""
    data = block["data"]
    value = data.get("value") if block["block_type"]["slug"] == _SECRET else _url(data)
    if isinstance(value, str) and value.strip():
        return SecretStr(value.strip())
    raise ConfigurationError(
        "a Prefect block cannot be used", value=block["name"], fix="Let it hold the secret itself, as plain text."
    )


def _url(connector: dict[str, Any]) -> str | None:
    """The database URL that a SQLAlchemy Connector stands for; None where it is none.

    What it hands to the driver as ``connect_args`` are options of the URL here: a wallet or a root certificate that it
    names is not left out.
    """
    from prefect_sqlalchemy import ConnectionComponents  # half a second that few need

    info, options = connector.get("connection_info"), connector.get("connect_args") or {}
    try:
        url = sa.make_url(info) if isinstance(info, str) else ConnectionComponents(**(info or {})).create_url()
        return url.update_query_dict(_texts(options)).render_as_string(hide_password=False)
    except (ValidationError, ValueError, TypeError, sa.exc.ArgumentError):
        return None


def _texts(options: dict[str, Any]) -> dict[str, str]:
    """Options as a URL has them."""
    if not all(isinstance(value, str | int | float) for value in options.values()):
        raise ValueError("an option that no URL has")
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
