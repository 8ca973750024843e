"""Who held a ticker when: a vendor's changes as spans, and renames that the list of members proves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import groupby, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closingbell.identity import Tenure, former, proven, shipped, tenures
from closingbell.sources.base import Identity, TickerChange
from closingbell.universe import Membership, memberships

META = Identity(
    "FIGI:BBG000MM2P62",
    "Meta Platforms, Inc.",
    (TickerChange("FB", date(2012, 5, 18)), TickerChange("META", date(2022, 6, 9))),
)

#: Who was META before: an exchange-traded fund.
FUND = Identity(
    "FIGI:BBG011M3Q3S0",
    "Roundhill Ball Metaverse ETF",
    (TickerChange("META", date(2021, 6, 30)), TickerChange("METV", date(2022, 1, 31))),
)


def day(number: int) -> date:
    return date(2020, 1, 1) + timedelta(days=number)


def member(ticker: str, start: int, end: int | None = None, cik: str = "0000000001", name: str = "") -> Membership:
    return Membership(ticker, day(start), None if end is None else day(end), name or f"{ticker} Inc.", cik)


def spans(found: Sequence[Tenure]) -> list[tuple[str, int, int | None]]:
    return [(t.ticker, (t.first - day(0)).days, None if t.end is None else (t.end - day(0)).days) for t in found]


def by_instrument(found: Sequence[Tenure]) -> dict[str, list[Tenure]]:
    instruments = defaultdict[str, list[Tenure]](list)
    for tenure in found:
        instruments[tenure.instrument_id].append(tenure)
    return instruments


def assert_chain(chain: Sequence[Tenure]) -> None:
    """Spans that follow each other without a break, each under another ticker than the one before."""
    for one, other in pairwise(chain):
        assert one.end == other.first
        assert one.ticker != other.ticker
    assert all(t.end is None or t.first < t.end for t in chain)
    assert len({(t.instrument_id, t.name) for t in chain}) == 1


def one_after_another(days: dict[date, str]) -> tuple[TickerChange, ...]:
    ordered = [TickerChange(ticker, first) for first, ticker in sorted(days.items())]
    return tuple(next(same) for _, same in groupby(ordered, key=lambda change: change.ticker))


changes = st.dictionaries(st.dates(), st.sampled_from("ABC"), min_size=1).map(one_after_another)


@given(changes)
def test_a_vendors_changes_are_spans_without_a_break(told: tuple[TickerChange, ...]) -> None:
    found = tenures(Identity("FIGI:X", "X", told))
    assert_chain(found)
    assert tuple(TickerChange(t.ticker, t.first) for t in found) == told
    assert found[-1].end is None
    for tenure in found:
        assert sum(other.covers(tenure.first) for other in found) == 1


def test_of_no_changes_there_are_no_tenures() -> None:
    assert tenures(Identity("FIGI:X", "X", ())) == ()


def test_meta_was_fb_and_not_the_fund_that_was_meta_before() -> None:
    fb, meta = tenures(META)
    assert fb == Tenure("FB", "FIGI:BBG000MM2P62", "Meta Platforms, Inc.", date(2012, 5, 18), date(2022, 6, 9))
    assert meta == Tenure("META", "FIGI:BBG000MM2P62", "Meta Platforms, Inc.", date(2022, 6, 9), None)
    assert [fb.covers(date(2022, 6, 8)), fb.covers(date(2022, 6, 9)), meta.covers(date(2022, 6, 9))] == [1, 0, 1]
    fund = tenures(FUND)[0]
    assert fund.end is not None
    assert fund.end < meta.first
    for known in ((*tenures(FUND), fb, meta), (meta, fb, *tenures(FUND))):
        assert former(["META", "FB", "METV", "AAPL"], known) == {"META": (fb,), "METV": (fund,)}
    # Before it changed its ticker, the fund was META's last holder, and had been nobody else.
    assert former(["META"], tenures(FUND)) == {}


def test_contiguous_memberships_of_one_number_are_one_instrument() -> None:
    found = proven([member("FB", 0, 10, name="Facebook"), member("META", 10, name="Meta")])
    assert spans(found) == [("FB", 0, 10), ("META", 10, None)]
    assert {(t.instrument_id, t.name) for t in found} == {("CIK:0000000001", "Meta")}
    assert former(["META", "FB"], found) == {"META": found[:1]}


def test_chains_of_more_than_two_and_back_again() -> None:
    found = proven([member("FISV", 0, 10), member("FI", 10, 20), member("FISV", 20, 30), member("X", 30)])
    assert spans(found) == [("FISV", 0, 10), ("FI", 10, 20), ("FISV", 20, 30), ("X", 30, None)]
    assert former(["X", "FISV", "FI"], found) == {"X": found[:3], "FISV": found[1:2], "FI": found[:1]}


@pytest.mark.parametrize(
    ("why", "members"),
    [
        ("a day apart", [member("A", 0, 10), member("B", 11)]),
        ("a day together", [member("A", 0, 11), member("B", 10)]),
        ("another number", [member("A", 0, 10), member("B", 10, cik="0000000002")]),
        ("no number", [member("A", 0, 10, cik=""), member("B", 10, cik="")]),
        ("the same ticker", [member("A", 0, 10), member("A", 10)]),
        ("two into one", [member("DISCA", 0, 10), member("DISCK", 0, 10), member("WBD", 10)]),
        ("one into two", [member("GOOG", 0, 10), member("GOOG", 10), member("GOOGL", 10)]),
        ("two into two", [member("UA", 0, 10), member("UA.C", 5, 10), member("UAA", 10), member("UA", 10)]),
        ("two come to one", [member("A", 0, 10), member("C", 10, 20), member("B", 25, 30), member("C", 30)]),
        ("two classes", [member("FOXA", 0), member("FOX", 10)]),
    ],
)
def test_nothing_is_stitched_on_doubt(why: str, members: list[Membership]) -> None:
    assert proven(members) == (), why


def test_share_classes_of_one_number_are_kept_apart() -> None:
    found = proven([member("AA", 0, 10), member("AB", 5, 20), member("BA", 10), member("BB", 20)])
    assert {name: spans(chain) for name, chain in by_instrument(found).items()} == {
        "CIK:0000000001/BA": [("AA", 0, 10), ("BA", 10, None)],
        "CIK:0000000001/BB": [("AB", 5, 20), ("BB", 20, None)],
    }
    beside = proven([member("NWSA", 0), member("NWS", 5, 20), member("N", 20)])
    assert {t.instrument_id for t in beside} == {"CIK:0000000001/N"}


def test_a_record_cut_in_two_is_one_tenure() -> None:
    members = [member("A", 0, 10), member("A", 10, 20), member("B", 20, 30), member("B", 30, 40)]
    assert spans(proven(members)) == [("A", 0, 20), ("B", 20, None)]


@pytest.mark.parametrize(
    ("other", "end"),
    [
        (None, None),
        (member("B", 30, cik="0000000002"), 30),
        (member("B", 20, cik="0000000002"), 20),
        (member("B", 30, cik=""), 30),
        (member("B", 5, 8, cik="0000000002"), None),
        (member("C", 30, cik="0000000002"), None),
        (member("B", 30), None),
    ],
)
def test_leaving_the_index_is_not_losing_the_ticker(other: Membership | None, end: int | None) -> None:
    """It is when another comes under it; who comes without a number may be another."""
    found = proven([member("A", 0, 10), member("B", 10, 20), *([other] if other else [])])
    assert spans(found) == [("A", 0, 10), ("B", 10, end)]
    assert former(["B"], found) == ({} if end else {"B": found[:1]})
    assert bool(former(["B"], [*found, *map(replace, found)])) == (not end), "told twice, by the store and the list"


def test_who_comes_back_and_is_renamed_again_is_two_chains() -> None:
    """In between, outside of the index, nobody tells whose ticker it was."""
    found = proven([member("A", 0, 10), member("B", 10, 20), member("B", 30, 40), member("C", 40)])
    assert {name: spans(chain) for name, chain in by_instrument(found).items()} == {
        "CIK:0000000001/B": [("A", 0, 10), ("B", 10, 30)],
        "CIK:0000000001/C": [("B", 30, 40), ("C", 40, None)],
    }


@st.composite
def lists(draw: st.DrawFn) -> list[Membership]:
    """Memberships of few tickers, numbers and days, so that they meet; those of one ticker do not overlap."""
    members = []
    for ticker in "ABCDE":
        days = sorted(draw(st.sets(st.integers(0, 8), max_size=6)))
        ends: list[int | None] = [*days[1:], None]
        for start, end in zip(days, ends, strict=False):
            if draw(st.booleans()):
                members.append(member(ticker, start, end, draw(st.sampled_from(["", "1", "2"]))))
    return members


@given(lists(), st.randoms(use_true_random=False))
def test_what_a_list_proves(members: list[Membership], chance: Random) -> None:
    found = proven(members)
    records = {(m.ticker, m.start): m for m in members}
    for instrument_id, chain in by_instrument(found).items():
        assert_chain(chain)
        assert len(chain) > 1
        for one, other in pairwise(chain):
            cik = records[other.ticker, other.first].cik
            assert instrument_id.startswith(f"CIK:{cik}")
            assert cik
            left = [m.ticker for m in members if m.cik == cik and m.end == other.first]
            came = [m.ticker for m in members if m.cik == cik and m.start == other.first]
            assert (left, came) == ([one.ticker], [other.ticker])
    by_ticker = defaultdict[str, list[Tenure]](list)
    for tenure in sorted(found, key=lambda t: t.first):
        by_ticker[tenure.ticker].append(tenure)
    for held in by_ticker.values():
        assert all(one.end is not None and one.end <= other.first for one, other in pairwise(held))
    chance.shuffle(members)
    assert proven(members) == found


@given(lists())
def test_former_tenures_end_where_the_ticker_begins(members: list[Membership]) -> None:
    known = proven(members)
    found = former("ABCDE", known)
    for ticker, earlier in found.items():
        last = max((t for t in known if t.ticker == ticker), key=lambda t: t.first)
        assert earlier
        assert {t.instrument_id for t in earlier} == {last.instrument_id}
        assert ticker not in {t.ticker for t in earlier}
        assert list(earlier) == sorted(earlier, key=lambda t: t.first)
        assert all(t.end is not None and t.end <= last.first for t in earlier)
    assert former("ABCDE", known[::-1]) == found


def chains() -> set[tuple[str, ...]]:
    return {tuple(t.ticker for t in chain) for chain in by_instrument(shipped()).values()}


def test_the_shipped_renames() -> None:
    for chain in by_instrument(shipped()).values():
        assert_chain(chain)
    expected = {("FB", "META"), ("FISV", "FI", "FISV"), ("PKI", "RVTY"), ("PEAK", "DOC"), ("CDAY", "DAY"), ("RE", "EG")}
    assert expected <= chains()
    assert len(chains()) == len(by_instrument(shipped())) >= 9
    meta = former(["META"], shipped())["META"]
    assert meta == (Tenure("FB", "CIK:0001326801", "Meta Platforms", date(2013, 12, 23), date(2022, 6, 9)),)
    days = {(t.ticker, t.first) for t in shipped()}
    assert {("RVTY", date(2023, 5, 16)), ("FI", date(2023, 6, 7)), ("FISV", date(2025, 11, 11))} <= days
    assert {("DOC", date(2024, 3, 4)), ("DAY", date(2024, 2, 1)), ("MRSH", date(2026, 1, 14))} <= days
    assert shipped() is shipped()


def test_the_shipped_share_classes_are_never_mixed_up() -> None:
    several = {"GOOG", "GOOGL", "FOX", "FOXA", "NWS", "NWSA"}
    assert several <= {m.ticker for m in memberships()}
    assert not several & {t.ticker for t in shipped()}
    assert former(sorted(several), shipped()) == {}


def test_who_has_no_number_in_the_list_is_in_no_chain() -> None:
    """ANTM became ELV, and VIAC PARA, on days that the list has; it does not say that they are the same company."""
    numberless = {(m.ticker, m.start) for m in memberships() if not m.cik}
    assert numberless
    assert not numberless & {(t.ticker, t.first) for t in shipped()}
    bare = [m for m in memberships() if (m.ticker, m.end) == ("ANTM", date(2022, 6, 28)) and not m.cik]
    assert ("ANTM" in {t.ticker for t in shipped()}) is not bool(bare)
