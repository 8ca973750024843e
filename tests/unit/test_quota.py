"""The quota, as people write it."""

from __future__ import annotations

import pytest

from closingbell.errors import ConfigurationError
from closingbell.quota import Quota, Quotas


@pytest.mark.parametrize(
    ("text", "calls", "seconds"),
    [
        ("5", 5, 60.0),
        ("5/min", 5, 60.0),
        ("5/minute", 5, 60.0),
        ("5/m", 5, 60.0),
        ("100/s", 100, 1.0),
        ("100 / sec", 100, 1.0),
        ("100/SECOND", 100, 1.0),
        ("5/6s", 5, 6.0),
        ("5/0.5s", 5, 0.5),
        ("  300/2min ", 300, 120.0),
        ("1000/h", 1000, 3600.0),
    ],
)
def test_a_rate(text: str, calls: int, seconds: float) -> None:
    quota = Quota.parse(text)
    assert (quota.calls, quota.seconds) == (calls, seconds)
    assert quota.interval * calls == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "0", "0/s", "-5", "5.5", "5/", "/s", "5/0s", "5/6", "5/week", "five", "5/-6s", "5 per minute", "1e3"]
)
def test_what_is_no_rate_is_refused_readably(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Quota.parse(text)
    assert caught.value.what == "the quota is not a rate"
    assert caught.value.value == repr(text)
    assert "POLYGON_CALLS_PER_MINUTE" in caught.value.fix
    assert "100/s" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5", "5 calls a minute"),
        ("100/s", "100 calls a second"),
        ("5/6s", "5 calls in 6 s"),
        ("5/0.5s", "5 calls in 0.5 s"),
        ("1200/2min", "1,200 calls in 120 s"),
    ],
)
def test_a_quota_in_words(text: str, shown: str) -> None:
    assert str(Quota.parse(text)) == shown


def test_an_asset_class_without_a_quota_of_its_own_shares_the_stocks() -> None:
    quotas = Quotas(Quota(5, 60.0), {"crypto": Quota(1, 1.0)})
    assert [quotas.holder(name) for name in ("stocks", "crypto", "fx")] == ["stocks", "crypto", "stocks"]
    assert quotas.of("fx") == Quota(5, 60.0)
    assert quotas.of("crypto") == Quota(1, 1.0)
    assert list(quotas.all()) == ["stocks", "crypto"]
    assert str(quotas) == "5 calls a minute, crypto 1 call a second"
