"""The flat files' settings: both keys or neither, never beside a stand-in market, and a quota of their own."""

from __future__ import annotations

import pytest

from closingbell.errors import ConfigurationError
from closingbell.settings import load

KEYS = {"polygon_flatfiles_key": "canary-id", "polygon_flatfiles_secret": "canary-secret"}


@pytest.mark.parametrize("one", KEYS)
def test_one_key_alone_is_refused(one: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{one.upper()} is set but") as caught:
        load(polygon_api_key="k", **{one: KEYS[one]})
    assert "canary" not in str(caught.value)


def test_real_files_never_mix_with_generated_bars() -> None:
    with pytest.raises(ConfigurationError, match="POLYGON_API_KEY is not"):
        load(**KEYS)


def test_their_quota_is_there_only_with_their_keys() -> None:
    without = load(polygon_api_key="k").quotas
    assert without.holder("flatfiles") == "stocks"
    settings = load(polygon_api_key="k", **KEYS, polygon_flatfiles_calls_per_minute="7/s")
    assert settings.quotas.holder("flatfiles") == "flatfiles"
    assert (settings.quotas.of("flatfiles").calls, settings.quotas.of("stocks").calls) == (7, 5)
    assert "canary" not in repr(settings)


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="POLYGON_CALLS_PER_MINUTE"):
        load(polygon_flatfiles_calls_per_minute="fast")
