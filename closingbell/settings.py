"""Every setting, read in one place from the environment and ``.env``.

Nothing else in the project looks at ``os.environ`` for its configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from closingbell.errors import ConfigurationError
from closingbell.quota import Quota, Quotas
from closingbell.text import visible

POLYGON_URL = "https://api.polygon.io"

#: The settings that hold a key or a password.
SECRETS: Final = ("database_url", "polygon_api_key", "databento_api_key")


class Settings(BaseSettings):
    """The settings, one environment variable each, of the same name in capitals.

    Build it with :func:`load`, which turns a bad value into a readable error.
    """

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the PostgreSQL or Oracle that holds the bars; unset: an embedded PostgreSQL.",
    )
    database_patience: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="Seconds that a run waits for a database that is away, locked or failing over.",
    )
    database_lock_timeout: float = Field(
        30.0,
        ge=0,
        le=3_600,
        description="Seconds that a transaction waits for a lock before it is tried again; 0: no limit.",
    )
    polygon_api_key: SecretStr | None = Field(
        None, description="The key for Polygon.io (Massive); unset: a stand-in market on loopback."
    )
    polygon_base_url: str = Field(POLYGON_URL, description="Where Polygon's REST API is served.")
    polygon_calls_per_minute: str = Field(
        "",
        description="The quota: calls a minute, or a rate such as 100/s. Unset: 5 a minute, and 100/s on the stand-in.",
    )
    polygon_crypto_calls_per_minute: str = Field(
        "", description="The quota of crypto's calls, where the key has one. Unset: they use up the quota above."
    )
    polygon_fx_calls_per_minute: str = Field("", description="The same for foreign exchange.")
    polygon_key_name: str = Field(
        "",
        pattern=r"^([a-z0-9]+(-[a-z0-9]+)*)?$",
        max_length=40,
        description="A name for the key: runs with another one do not share its quota. Unset: all share one.",
    )
    polygon_connect_timeout: float = Field(10.0, gt=0, description="Seconds to wait for a connection.")
    polygon_read_timeout: float = Field(30.0, gt=0, description="Seconds a response may stay silent.")
    polygon_call_timeout: float = Field(120.0, gt=0, description="Seconds one call may take in all, body included.")
    databento_api_key: SecretStr | None = Field(None, description="The key for Databento, the second source.")
    prefect_api_url: str | None = Field(None, description="The Prefect server's API; unset: a local server.")
    batch_size: int = Field(25, ge=1, le=10_000, description="Calls in one mapped task.")
    max_retries: int = Field(3, ge=0, le=100, description="Times a task asks again for what failed.")
    retry_delay: float = Field(2.0, ge=0, description="Seconds before the first retry; doubles each time.")
    fetch_threads: int = Field(8, ge=1, le=64, description="Batches worked on at once in one run.")
    closingbell_home: Path = Field(Path(".closingbell"), description="Where the embedded parts and the reports live.")
    closingbell_now: AwareDatetime | None = Field(
        None, description="Freeze the clock at this instant (ISO 8601 with offset), to replay a night."
    )
    market_size: int = Field(11_000, ge=1, description="Tickers on the stand-in's market day.")
    market_seed: int = Field(1792, ge=0, description="Seed of the stand-in's generated bars.")
    market_replay: Path | None = Field(None, description="A parquet or CSV file of bars for the stand-in to serve.")

    @field_validator("closingbell_home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @field_validator("polygon_calls_per_minute", "polygon_crypto_calls_per_minute", "polygon_fx_calls_per_minute")
    @classmethod
    def _a_rate(cls, text: str) -> str:
        if text:
            Quota.parse(text)
        return text

    @property
    def uses_stand_in(self) -> bool:
        """Whether the bars come from the stand-in market, because no key is set."""
        return self.polygon_api_key is None

    @property
    def source(self) -> str:
        """The vendor's name in the tables: generated bars never pass for real ones."""
        return "stand-in" if self.uses_stand_in else "polygon"

    @property
    def quota(self) -> Quota:
        """The stocks' quota: what is set, else the free plan's (5 a minute), else the stand-in's (100 a second)."""
        return Quota.parse(self.polygon_calls_per_minute or ("100/s" if self.uses_stand_in else "5/min"))

    @property
    def quotas(self) -> Quotas:
        """The quota of every asset class that has one of its own; the others share the stocks', so none is exceeded."""
        own = {"crypto": self.polygon_crypto_calls_per_minute, "fx": self.polygon_fx_calls_per_minute}
        return Quotas(self.quota, {name: Quota.parse(rate) for name, rate in own.items() if rate})

    @property
    def market_day_rows(self) -> int:
        """Rows that a market day of stocks brings: the vendor's, or as many as the stand-in is set to."""
        from closingbell.plan import MARKET_DAY_ROWS  # brings scipy, which only a plan should pay for

        return self.market_size if self.uses_stand_in else MARKET_DAY_ROWS

    @property
    def warnings(self) -> list[str]:
        """What a person should know of these settings, though a run can go on with them."""
        parts = urlsplit(self.polygon_base_url)
        if self.uses_stand_in or parts.scheme != "http" or _is_loopback(parts.hostname or ""):
            return []
        plain = f"POLYGON_API_KEY goes to {visible(parts.hostname or '')} over plain http, where others can read it"
        return [f"{plain}. Set POLYGON_BASE_URL to an https address."]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def load(complete: Callable[[Settings], Settings] | None = None, **overrides: Any) -> Settings:
    """Read the settings; keyword arguments win over the environment, the environment over ``.env``.

    Args:
        complete: adds what is kept elsewhere, such as keys in Prefect's blocks.
        **overrides: settings by their names in lower case.

    Raises:
        ConfigurationError: a value cannot be read, or two contradict each other.
    """
    settings = read(**overrides)
    if complete is not None:
        settings = complete(settings)
    if settings.polygon_api_key is None and settings.polygon_base_url != POLYGON_URL:
        raise ConfigurationError(
            "POLYGON_BASE_URL is set but POLYGON_API_KEY is not",
            value="(not shown)" if "@" in settings.polygon_base_url else settings.polygon_base_url,
            fix="Set the key that this address expects, or unset the address to use the stand-in market.",
        )
    return settings


def read(**overrides: Any) -> Settings:
    """The settings of the environment alone, whether or not they suffice for a run.

    Raises:
        ConfigurationError: a value cannot be read.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]).upper()
        secret = any(word in name for word in ("KEY", "URL"))
        raise ConfigurationError(
            f"the setting {name} cannot be used",
            value="(not shown)" if secret else repr(first.get("input")),
            fix=f"{first['msg']}. See docs/settings.md.",
        ) from None
