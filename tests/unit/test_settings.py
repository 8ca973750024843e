"""The settings: from the environment, readable when wrong, silent about secrets."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from closingbell.errors import ConfigurationError
from closingbell.settings import POLYGON_URL, Settings, load

SECRET = "canary-5f2d"
SECRETS = [name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None]


def refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> ConfigurationError:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_with_nothing_set_everything_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)  # other tests of the session have a server
    settings = load()
    assert settings.database_url is None
    assert settings.prefect_api_url is None
    assert settings.uses_stand_in
    assert str(settings.quota) == "100 calls a second"
    assert settings.closingbell_home == (tmp_path / "home").resolve()
    assert settings.closingbell_now is None


def test_a_key_brings_the_free_plans_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", SECRET)
    settings = load()
    assert not settings.uses_stand_in
    assert settings.polygon_base_url == POLYGON_URL
    assert str(settings.quota) == "5 calls a minute"
    monkeypatch.setenv("POLYGON_CALLS_PER_MINUTE", "50/s")
    assert str(load().quota) == "50 calls a second"


def test_an_asset_class_may_have_its_own_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_CALLS_PER_MINUTE", "5")
    assert load().quotas.holder("crypto") == "stocks", "counted together, no quota is exceeded"
    monkeypatch.setenv("POLYGON_CRYPTO_CALLS_PER_MINUTE", "1/s")
    assert str(load().quotas) == "5 calls a minute, crypto 1 call a second"
    assert "'often'" in str(refused(monkeypatch, "POLYGON_FX_CALLS_PER_MINUTE", "often"))


@pytest.mark.parametrize("name", ["My Key", "-", "a--b", "a/b", "x" * 41])
def test_a_name_for_a_key_is_one_plain_word(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert "POLYGON_KEY_NAME" in refused(monkeypatch, "POLYGON_KEY_NAME", name).what


def test_the_environment_wins_over_the_file_and_an_argument_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("BATCH_SIZE=7\nMAX_RETRIES=9\nUNKNOWN=1\n")
    monkeypatch.setitem(Settings.model_config, "env_file", str(tmp_path / "env"))
    monkeypatch.setenv("MAX_RETRIES", "2")
    assert (load().batch_size, load().max_retries) == (7, 2)
    assert load(batch_size=3).batch_size == 3


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    assert load().uses_stand_in
    assert load().batch_size == 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH_SIZE", "many"),
        ("BATCH_SIZE", "0"),
        ("MAX_RETRIES", "-1"),
        ("FETCH_THREADS", "65"),
        ("POLYGON_READ_TIMEOUT", "0"),
        ("MARKET_SIZE", "1.5"),
        ("CLOSINGBELL_NOW", "2024-01-02 09:30"),  # of which time zone?
        ("CLOSINGBELL_NOW", "yesterday"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    error = refused(monkeypatch, name, value)
    assert error.what == f"the setting {name} cannot be used"
    assert repr(value) in str(error)
    assert "docs/settings.md" in error.fix
    assert "\n" not in str(error)


def test_a_quota_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, "POLYGON_CALLS_PER_MINUTE", "lots")
    assert "'lots'" in str(error)
    assert "POLYGON_CALLS_PER_MINUTE" in error.fix


def test_an_address_without_its_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, "POLYGON_BASE_URL", "http://127.0.0.1:9")
    assert error.what == "POLYGON_BASE_URL is set but POLYGON_API_KEY is not"
    monkeypatch.setenv("POLYGON_API_KEY", SECRET)
    assert load().polygon_base_url == "http://127.0.0.1:9"


def test_a_frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSINGBELL_NOW", "2024-01-02T23:00:00-05:00")
    assert load().closingbell_now == datetime(2024, 1, 3, 4, tzinfo=UTC)


def test_secrets_show_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"database_url", "polygon_api_key", "databento_api_key"} <= set(SECRETS)
    for name in SECRETS:
        monkeypatch.setenv(name.upper(), SECRET)
    settings = load()
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in text
    assert all(getattr(settings, name).get_secret_value() == SECRET for name in SECRETS)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_wrong_kind_is_not_quoted(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(**{name: [SECRET]})
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "(not shown)" in str(caught.value)


def test_the_settings_do_not_change_under_a_run() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().batch_size = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("https://api.polygon.io", False),
        ("http://127.0.0.1:8787", False),
        ("http://127.8.8.8", False),
        ("http://[::1]:8787", False),
        ("http://localhost:8787", False),
        ("http://10.0.0.5:8787", True),
        ("http://localhost.example.com", True),
        ("http://market:8787", True),
    ],
)
def test_a_key_in_the_clear_is_warned_of(address: str, warned: bool) -> None:
    settings = load(polygon_api_key=SECRET, polygon_base_url=address)
    assert len(settings.warnings) == warned
    assert SECRET not in str(settings.warnings)
    if warned:
        assert "https" in settings.warnings[0]
