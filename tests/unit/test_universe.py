"""Who is in a universe, and what counts as a ticker."""

from __future__ import annotations

import json
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydantic.types import StringConstraints

from closingbell import universe
from closingbell.calendar import asset_class
from closingbell.errors import ConfigurationError
from closingbell.universe import FIRST_MEMBERSHIP, TICKER_PATTERN, load, memberships, parse_tickers, resolve

tickers = st.from_regex(TICKER_PATTERN, fullmatch=True)


def test_the_default_universe_has_503_members_and_20_etfs() -> None:
    members, etfs = load("sp500"), load("etfs")
    assert (len(members), len(etfs)) == (503, 20)
    assert load("sp500+etfs") == load(universe.DEFAULT) == resolve() == members + etfs
    assert len(set(members + etfs)) == 523
    assert {"BRK.B", "BF.B", "GOOG", "GOOGL", "META"} <= set(members)
    assert {"SPY", "QQQ", "XLK"} <= set(etfs)


def test_every_shipped_ticker_is_one_that_people_may_write() -> None:
    every = sorted({m.ticker for m in memberships()} | set(load("etfs")))
    assert parse_tickers(every) == tuple(every)
    assert {asset_class(ticker) for ticker in every} == {"stocks"}


def test_members_are_identified() -> None:
    current = [m for m in memberships() if m.end is None]
    assert all(len(m.cik) == 10 and m.cik.isdigit() and m.name for m in current)
    assert {len(m.cik) for m in memberships()} == {0, 10}
    # Alphabet, Fox and News Corp have two share classes in the index; nobody else shares a number.
    assert len({m.cik for m in current}) == 500


def test_memberships_of_a_ticker_do_not_overlap() -> None:
    every = memberships()
    assert list(every) == sorted(every, key=lambda m: (m.ticker, m.start))
    assert all(m.start >= FIRST_MEMBERSHIP and (m.end is None or m.start < m.end) for m in every)
    pairs = [(a, b) for a, b in pairwise(every) if a.ticker == b.ticker]
    assert all(a.end and a.end <= b.start for a, b in pairs)


@pytest.mark.parametrize(
    ("day", "inside", "outside"),
    [
        ("2020-12-18", {"AIV"}, {"TSLA"}),
        ("2020-12-21", {"TSLA"}, {"AIV"}),
        ("2022-06-08", {"FB"}, {"META"}),
        ("2022-06-09", {"META"}, {"FB"}),
        ("2015-06-30", {"BRK.B", "FB", "GOOG", "GOOGL", "EMC"}, {"META", "TSLA", "PYPL"}),
        ("2023-12-15", {"SEE", "ALK", "SEDG"}, {"UBER", "JBL", "BLDR"}),
        ("2023-12-18", {"UBER", "JBL", "BLDR"}, {"SEE", "ALK", "SEDG"}),
        ("2025-03-21", {"BWA", "TFX", "CE", "FMC"}, {"DASH", "TKO", "WSM", "EXE"}),
        ("2025-03-24", {"DASH", "TKO", "WSM", "EXE"}, {"BWA", "TFX", "CE", "FMC"}),
        ("2025-08-07", {"PSKY"}, {"PARA"}),
        ("2025-12-01", {"FISV", "SOLS", "MMC", "BK"}, {"FI", "KMX", "IPG", "MRSH", "BNY"}),
        ("2026-04-01", {"SATS", "MRSH"}, {"ECHO", "MMC", "SOLS"}),
    ],
)
def test_members_on_a_day(day: str, inside: set[str], outside: set[str]) -> None:
    members = set(load(f"sp500@{day}"))
    assert inside <= members
    assert not outside & members
    assert members == set(load("sp500", date.fromisoformat(day)))


@pytest.mark.parametrize(
    ("day", "count"),
    [
        ("1996-01-02", 487),
        ("2005-01-03", 495),
        ("2015-06-30", 499),
        ("2020-12-18", 505),
        ("2020-12-21", 505),
        ("2022-06-08", 504),
        ("2022-06-09", 504),
        ("2024-06-03", 503),
        ("2025-07-09", 503),
        ("2025-12-22", 503),
        ("2026-08-07", 514),  # with the 11 whose day of leaving no source tells
        ("2026-08-08", 503),
        ("2030-01-01", 503),
    ],
)
def test_how_many_members_on_a_day(day: str, count: int) -> None:
    assert len(load(f"sp500@{day}")) == count
    assert len(load(f"sp500+etfs@{day}")) == count + 20


@given(st.dates(FIRST_MEMBERSHIP, date(2027, 1, 1)))
def test_any_day_has_about_500_members_each_once(day: date) -> None:
    members = load("sp500", day)
    assert 480 <= len(members) <= 515
    assert len(set(members)) == len(members)


@pytest.mark.parametrize("name", ["", "SP500", "nasdaq", "etfs@2015-06-30", "sp500,etfs", "sp500 "])
def test_an_unknown_universe_is_refused_with_the_names(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sp500, etfs, sp500\+etfs"):
        load(name)


@pytest.mark.parametrize(
    "name", ["sp500@", "sp500@2015-13-01", "sp500@20150630", "sp500@2015-06-30@x", "sp500@yesterday"]
)
def test_a_bad_date_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="date of a universe"):
        load(name)


def test_dates_before_the_record_or_at_odds_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1996-01-02"):
        load("sp500@1995-12-29")
    with pytest.raises(ConfigurationError, match="two dates"):
        load("sp500@2015-06-30", date(2015, 7, 1))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("AAPL", ("AAPL",)),
        (" AAPL, MSFT ,,AAPL\n\tBRK.B ", ("AAPL", "MSFT", "BRK.B")),
        (["X:BTCUSD", "C:EURUSD", "PEBpE"], ("X:BTCUSD", "C:EURUSD", "PEBpE")),
        (["NQ.v.0", "6EH4", "BAC.WS.A"], ("NQ.v.0", "6EH4", "BAC.WS.A")),
        (("PEBpE", "PEBPE"), ("PEBpE", "PEBPE")),
    ],
)
def test_tickers_that_are_accepted(given: str | list[str], expected: tuple[str, ...]) -> None:
    assert parse_tickers(given) == expected


HOSTILE = [
    "'; drop table bar;--", '"AAPL"', "../etc/passwd", "A/B", "A..B", ".A", "A.", "A\\B", "A%2FB", "A?x=1", "A#", "A=B",
    "A" * 33, "A" * 10_000, "ÄÖÜ", "AAPL\u200b", "AAPL\x00", "\uff21\uff21", "A\u0660", "X:", ":A", "X:X:A", "I:SPX",
    "O:SPY", "aapl", "x:BTCUSD", "BRK-B", "BRK/B",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_tickers_are_refused(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_tickers(["AAPL", value])
    message = str(caught.value)
    assert "ticker 2" in message
    assert repr(value)[1:6].rstrip("'") in message
    assert len(message) < 250
    with pytest.raises(ConfigurationError):
        parse_tickers(f"AAPL,{value}")


@pytest.mark.parametrize("value", ["AAPL ", " AAPL", "AAPL\n", "AAPL MSFT", "", " ", None, 5, b"AAPL", ["AAPL"]])
def test_an_item_of_a_list_is_exactly_one_ticker(value: object) -> None:
    with pytest.raises(ConfigurationError, match="ticker 1"):
        parse_tickers([value])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("value", "hint"),
    [("BRK-B", r"BRK\.B"), ("BRK/B", r"BRK\.B"), ("aapl", "AAPL"), ("x:BTCUSD", "X:BTCUSD"), ("I:SPX", "Indices")],
)
def test_a_refusal_says_what_to_write_instead(value: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_tickers([value])
    assert caught.match(hint)


@pytest.mark.parametrize("blank", ["", "  ", ",", " , \n", [], ()])
def test_no_ticker_at_all_is_refused(blank: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        parse_tickers(blank)


@given(st.lists(tickers, min_size=1, max_size=20), st.sampled_from([",", " ", ", ", "\n", "\r\n", "\t"]))
def test_parsing_is_idempotent_and_loses_nothing(given: list[str], separator: str) -> None:
    parsed = parse_tickers(given)
    assert parsed == tuple(dict.fromkeys(given))
    assert parse_tickers(parsed) == parsed
    assert parse_tickers(separator.join(given)) == parsed


@given(st.text(max_size=40).filter(lambda text: not text.lstrip().startswith("@")))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_tickers(text)
    except ConfigurationError:
        return
    assert parse_tickers(parsed) == parsed
    assert set(",".join(parsed)) <= set(text) | {","}


@given(tickers)
def test_the_pattern_bounds_the_length(ticker: str) -> None:
    assert 1 <= len(ticker) <= 32


def test_the_pattern_means_the_same_in_a_form() -> None:
    adapter = TypeAdapter(Annotated[str, StringConstraints(pattern=TICKER_PATTERN)])
    assert adapter.json_schema()["pattern"] == TICKER_PATTERN
    for value in ("AAPL", "BRK.B", "X:BTCUSD", "PEBpE"):
        assert adapter.validate_python(value) == value
    for value in HOSTILE:
        with pytest.raises(ValueError, match="pattern"):
            adapter.validate_json(json.dumps(value))


@pytest.mark.parametrize(
    "content",
    [
        b"AAPL\nBRK.B\nX:BTCUSD\n",
        b"\xef\xbb\xbf# mine\r\n\r\nAAPL # the fruit\r\n  BRK.B\r\nX:BTCUSD\r\nAAPL",
        b"ticker\nAAPL\nBRK.B\nX:BTCUSD\n",
        b'\xef\xbb\xbfName,Symbol\r\n# a comment\r\n"Apple, Inc.",AAPL\r\nB,BRK.B\r\n,\r\nBitcoin, X:BTCUSD \r\n',
        b"\"symbol\";\"name\"\nAAPL;Apple\nBRK.B;Berkshire\nX:BTCUSD;Bitcoin\n",
        b"name\tTICKER\nApple\tAAPL\nBerkshire\tBRK.B\nBitcoin\tX:BTCUSD\n",
    ],
)  # fmt: skip
def test_files_of_tickers(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "my tickers.csv"
    file.write_bytes(content)
    expected = ("AAPL", "BRK.B", "X:BTCUSD")
    assert parse_tickers(f"@{file}") == expected
    assert parse_tickers([f"@{file}"]) == resolve("etfs", f" @{file} ") == expected
    assert parse_tickers(["MSFT", f"@{file}", "AAPL"]) == ("MSFT", *expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"AAPL\nMS FT\n", "line 2"),
        (b"# c\n\nAAPL\n'; drop\n", "line 4"),
        (b"AAPL,MSFT\n", "line 1"),
        (b"name,code\nApple,AAPL\n", "line 1"),
        (b"ticker,name\nAAPL,Apple\n,Nobody\n", "line 3"),
        (b"name,ticker\nApple,AAPL\nShort\n", "line 3"),
        (b'ticker,name\nAAPL,"Apple\n', "CSV"),
        (b"ticker\n", "empty"),
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        ("AAPL\n".encode("utf-16"), "UTF-8"),
        (b"\x00\x01\x02", "line 1"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "tickers.txt"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        parse_tickers(f"@{file}")
    assert caught.match(message)


def test_a_wrong_file_does_not_spill_its_secrets(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("POLYGON_API_KEY=s3cr3ts3cr3t\n")
    with pytest.raises(ConfigurationError) as caught:
        parse_tickers(f"@{file}")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("path", ["@", "@.", "@no/such/file", "@/dev/zero", "@\x00", "@~nobody/x"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        parse_tickers(path)


def test_tickers_win_over_the_universe() -> None:
    assert resolve("sp500", ["AAPL"]) == resolve(None, "AAPL") == ("AAPL",)
    assert resolve("etfs", None) == resolve("etfs", []) == load("etfs")
    assert resolve(None, None) == resolve("", ()) == load("sp500+etfs")
    with pytest.raises(ConfigurationError, match="empty"):
        resolve("etfs", "")
