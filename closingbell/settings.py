"""Every setting, read in one place from the environment and ``.env``.

Nothing else in the project looks at ``os.environ`` for its configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from closingbell.errors import ConfigurationError
from closingbell.hosts import is_here
from closingbell.quota import Gates, Quota, Quotas
from closingbell.text import visible

if TYPE_CHECKING:
    from closingbell.sources.databento import DatabentoSource

POLYGON_URL = "https://api.polygon.io"

#: Massive's, as Polygon is called now; https://files.polygon.io is the same.
FLAT_FILES_URL = "https://files.massive.com"
DATABENTO_URL: Final = "https://hist.databento.com"

#: The second source's name in the tables and on the command line.
DATABENTO: Final = "databento"

#: Who makes a run's calls.
TaskRunnerName = Literal["threads", "dask"]

#: The settings that hold a key or a password.
SECRETS: Final = (
    "database_url",
    "polygon_api_key",
    "databento_api_key",
    "polygon_flatfiles_key",
    "polygon_flatfiles_secret",
)


#: Retries of crypto's and currencies' calls, whose bad nights are worse: with six calls in ten failing, one in a
#: hundred still fails after so many.
MORE_RETRIES: Final = 8


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
    polygon_crypto_call_timeout: float | None = Field(
        None, gt=0, description="The same for crypto's calls. Unset: POLYGON_CALL_TIMEOUT."
    )
    polygon_fx_call_timeout: float | None = Field(None, gt=0, description="The same for foreign exchange.")
    extended_hours: bool = Field(
        True, description="Store stocks' intraday bars from before the open and after the close as well."
    )
    polygon_flatfiles_key: SecretStr | None = Field(
        None, description="The S3 access key's id for Polygon's flat files; unset: all bars come over REST."
    )
    polygon_flatfiles_secret: SecretStr | None = Field(None, description="The secret of that key.")
    polygon_flatfiles_url: str = Field(FLAT_FILES_URL, description="Where the flat files' S3 service is.")
    polygon_flatfiles_bucket: str = Field(
        "flatfiles", pattern=r"^[a-z0-9][a-z0-9.-]{2,62}$", description="The flat files' bucket."
    )
    polygon_flatfiles_calls_per_minute: str = Field(
        "10/s", description="The quota of requests for flat files, which use up no other: a minute, or a rate."
    )
    databento_api_key: SecretStr | None = Field(None, description="The key for Databento, the second source.")
    databento_gateway: str = Field(DATABENTO_URL, description="Where Databento's API is served, always by https.")
    databento_dataset: str = Field(
        "",
        pattern=r"^([A-Z0-9]+\.[A-Z0-9]+)?$",
        description="The dataset of all tickers. Unset: GLBX.MDP3 for continuous futures, EQUS.MINI for shares.",
    )
    databento_calls: str = Field("10/s", description="How many calls for bars Databento gets: a rate, as above.")
    databento_timeout: float = Field(60.0, gt=0, description="Seconds that an answer of Databento may stay silent.")
    databento_batch_bars: int = Field(
        500, ge=1, le=50_000, description="Bars in one transaction of what Databento sent."
    )
    databento_max_usd: float | None = Field(
        None, ge=0, description="Do not begin a run that would cost more than so many US dollars. Unset: no limit."
    )
    prefect_api_url: str | None = Field(None, description="The Prefect server's API; unset: a local server.")
    notify_block: str = Field(
        "",
        pattern=r"^([a-z0-9-]+/[a-z0-9-]+)?$",
        description="The Prefect notification block that is told of failures, type/name such as slack-webhook/ops.",
    )
    batch_size: int = Field(100, ge=1, le=10_000, description="Calls in one mapped task at most.")
    max_retries: int = Field(3, ge=0, le=100, description="Times a task asks again for what failed.")
    crypto_max_retries: int | None = Field(
        None, ge=0, le=100, description="The same for crypto's calls. Unset: MAX_RETRIES, and 8 where that is not set."
    )
    fx_max_retries: int | None = Field(None, ge=0, le=100, description="The same for foreign exchange.")
    retry_delay: float = Field(2.0, ge=0, description="Seconds before the first retry; doubles each time.")
    fetch_threads: int = Field(8, ge=1, le=64, description="Batches worked on at once in one run.")
    task_runner: TaskRunnerName = Field(
        "threads", description="Who makes a run's calls: threads of its own process, or the workers of a Dask cluster."
    )
    dask_address: str = Field(
        "", pattern=r"^([a-z]+://\S+)?$", description="The Dask scheduler; unset: a cluster on the run's machine."
    )
    dask_workers: int = Field(2, ge=1, le=256, description="Processes of the cluster on this machine.")
    closingbell_home: Path = Field(Path(".closingbell"), description="Where the embedded parts and the reports live.")
    closingbell_now: AwareDatetime | None = Field(
        None, description="Freeze the clock at this instant (ISO 8601 with offset), to replay a night."
    )
    market_size: int = Field(11_000, ge=1, description="Tickers on the stand-in's market day.")
    market_seed: int = Field(1792, ge=0, description="Seed of the stand-in's generated bars.")
    market_replay: Path | None = Field(None, description="A file of bars, or a folder, for the stand-in to serve.")

    @field_validator("closingbell_home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @field_validator(
        "polygon_calls_per_minute",
        "polygon_crypto_calls_per_minute",
        "polygon_fx_calls_per_minute",
        "polygon_flatfiles_calls_per_minute",
        "databento_calls",
    )
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
    def has_flat_files(self) -> bool:
        """Whether bars may come by flat file, because both keys are set."""
        return self.polygon_flatfiles_key is not None and self.polygon_flatfiles_secret is not None

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
        own["flatfiles"] = self.polygon_flatfiles_calls_per_minute if self.has_flat_files else ""
        return Quotas(self.quota, {name: Quota.parse(rate) for name, rate in own.items() if rate})

    def retries_of(self, asset_class: str) -> int:
        """How often calls of an asset class that failed are tried again."""
        own = {"crypto": self.crypto_max_retries, "fx": self.fx_max_retries}
        if (count := own.get(asset_class)) is not None:
            return count
        return MORE_RETRIES if asset_class in own and "max_retries" not in self.model_fields_set else self.max_retries

    @property
    def call_timeouts(self) -> dict[str, float]:
        """Seconds that a call may take in all, of the asset classes for which they are set apart."""
        own = {"crypto": self.polygon_crypto_call_timeout, "fx": self.polygon_fx_call_timeout}
        return {name: seconds for name, seconds in own.items() if seconds is not None}

    def quotas_of(self, source: str) -> Quotas:
        """The quotas of a vendor, by its name in the tables."""
        return Quotas(Quota.parse(self.databento_calls), {}) if source == DATABENTO else self.quotas

    def source_of(self, wanted: str | None) -> str:
        """The name in the tables of the vendor that a person asks for: ``polygon``, ``databento``; None: as set.

        Raises:
            ConfigurationError: it has no key, or there is no such vendor.
        """
        if wanted == DATABENTO and self.databento_api_key is None:
            raise ConfigurationError("DATABENTO_API_KEY is not set", fix="Set it to a key, or leave out the source.")
        if wanted not in (None, "polygon", DATABENTO):
            raise ConfigurationError("there is no such source", value=wanted, fix=f"Use polygon or {DATABENTO}.")
        return DATABENTO if wanted == DATABENTO else self.source

    def databento(self, gates: Gates | None) -> DatabentoSource:
        """The second source as it is set; without gates, to ask for prices only.

        Raises:
            ConfigurationError: there is no key, or its client is not installed.
        """
        from closingbell.sources.databento import DatabentoSource

        self.source_of(DATABENTO)
        assert self.databento_api_key is not None  # noqa: S101 - just looked at
        return DatabentoSource(
            self.databento_api_key.get_secret_value(),
            gates,
            gateway=self.databento_gateway,
            dataset=self.databento_dataset,
            timeout=self.databento_timeout,
        )

    @property
    def longest_call(self) -> float:
        """Seconds that no call takes longer than, of whatever asset class."""
        return max(self.polygon_call_timeout, *self.call_timeouts.values(), 0.0)

    @property
    def market_day_rows(self) -> int:
        """Rows that a market day of stocks brings: the vendor's, or as many as the stand-in is set to."""
        from closingbell.plan import MARKET_DAY_ROWS  # brings scipy, which only a plan should pay for

        return self.market_size if self.uses_stand_in else MARKET_DAY_ROWS

    @property
    def warnings(self) -> list[str]:
        """What a person should know of these settings, though a run can go on with them."""
        parts = urlsplit(self.polygon_base_url)
        if self.uses_stand_in or parts.scheme != "http" or is_here(parts.hostname or ""):
            return []
        plain = f"POLYGON_API_KEY goes to {visible(parts.hostname or '')} over plain http, where others can read it"
        return [f"{plain}. Set POLYGON_BASE_URL to an https address."]


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
    _check_flat_files(settings)
    return settings


def _check_flat_files(settings: Settings) -> None:
    """Raises: ConfigurationError: one of the two keys is set, or the bars of a stand-in would mix with real ones."""
    keys = (settings.polygon_flatfiles_key, settings.polygon_flatfiles_secret)
    if any(keys) and not settings.has_flat_files:
        name, other = ("KEY", "SECRET") if keys[0] else ("SECRET", "KEY")
        raise ConfigurationError(
            f"POLYGON_FLATFILES_{name} is set but POLYGON_FLATFILES_{other} is not",
            fix="Set both, or neither.",
        )
    if any(keys) and settings.polygon_api_key is None:
        raise ConfigurationError(
            "POLYGON_FLATFILES_KEY is set but POLYGON_API_KEY is not",
            fix="Set the key of the same account, or unset both of the flat files' to use the stand-in market.",
        )


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
        secret = any(word in name for word in ("KEY", "URL", "SECRET"))
        raise ConfigurationError(
            f"the setting {name} cannot be used",
            value="(not shown)" if secret else repr(first.get("input")),
            fix=f"{first['msg']}. See docs/settings.md.",
        ) from None
