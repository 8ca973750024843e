"""The binary COPY format, against one written field by field."""

from __future__ import annotations

import struct
from uuid import UUID

import numpy as np
import pytest

from closingbell.bars import BAR, Bars
from closingbell.store import copy
from closingbell.store.columns import in_key_order, in_order, is_latest, ordered
from closingbell.store.copy import Field, Rows, encode, parse
from closingbell.store.database import Series
from closingbell.store.postgres import whole_rows

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)


def plain(rows: list[list[bytes | None]]) -> bytes:
    fields = [[struct.pack(">i", -1 if v is None else len(v)) + (v or b"") for v in row] for row in rows]
    return b"".join(struct.pack(">h", len(row)) + b"".join(row) for row in fields)


def test_texts_of_every_length_and_nulls_in_any_place() -> None:
    names, positions = ("A", "é", "ABCDEFGHIJ", "PEBpE"), np.array([2, 0, 1, 3, 0, 2], np.int32)
    numbers = np.array([1.5, np.nan, -0.0, 5e-324, np.nan, 1e300])
    counts = np.array([1, 2, -1, -1, 2**53 + 1, 0])
    fields = [
        Field.texts(names, positions),
        Field.constant(b"1d", 6),
        Field.numbers(numbers, ">f8", np.isnan(numbers)),
        Field.numbers(counts, ">i8", counts == -1),
    ]
    wanted: list[list[bytes | None]] = [
        [
            names[position].encode(),
            b"1d",
            None if np.isnan(number) else struct.pack(">d", number),
            None if count == -1 else struct.pack(">q", count),
        ]
        for position, number, count in zip(positions, numbers, counts.tolist(), strict=True)
    ]
    assert encode(fields) == plain(wanted)


def test_texts_of_a_vocabulary_that_has_more_of_them() -> None:
    names, positions = ("unused", "A", "é", "longest of all", "BRK.B"), np.array([4, 1, 4, 2], np.int32)
    wanted: list[list[bytes | None]] = [[names[i].encode()] for i in positions]
    assert encode([Field.texts(names, positions)]) == plain(wanted)


@pytest.mark.parametrize("each", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("absent", [0.0, 0.001, 0.5, 1.0])
def test_rows_alike_and_rows_of_changing_layouts_are_one_stream(each: int, absent: float) -> None:
    rng = np.random.default_rng(each)
    names = ("A", "é", "", "ABCDEFGHIJ", "BRK.B", "CRK.B")
    positions = np.repeat(np.array([3, 0, 4, 5, 2, 1, 3, 0], np.int32), each)
    volumes, trades = rng.random(len(positions)), rng.integers(0, 2**40, len(positions))
    null = rng.random(len(positions)) < absent
    fields = [
        Field.texts(names, positions),
        Field.numbers(volumes, ">f8"),
        Field.constant(b"polygon", len(positions)),
        Field.numbers(trades, ">i8", null),
    ]
    wanted: list[list[bytes | None]] = [
        [names[i].encode(), struct.pack(">d", volume), b"polygon", None if no else struct.pack(">q", count)]
        for i, volume, count, no in zip(positions, volumes.tolist(), trades.tolist(), null, strict=True)
    ]
    assert encode(fields) == plain(wanted)


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_a_stream_in_blocks_is_read_back(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "BLOCK", 2)
    days = np.datetime64("1999-12-30") + np.arange(count)
    instants = days.astype("M8[us]") + np.timedelta64(1, "us")

    def fields(part: slice) -> list[Field]:
        return [Field.dates(days[part]), Field.instants(instants[part])]

    rows = Rows(count, fields)
    stream = b"".join(iter(rows.read, b""))
    assert stream.startswith(HEADER)
    assert rows.read() == b""
    found = parse(stream, (("day", "date"), ("instant", "timestamptz")))
    assert (found["day"] == days).all()
    assert (found["instant"] == instants).all()


def _bars(tickers: tuple[str, ...], keys: list[tuple[int, int]]) -> Bars:
    rows = np.zeros(len(keys), BAR)
    rows["ticker"] = [ticker for ticker, _ in keys]
    rows["ts"] = np.datetime64("2024-01-02T14:30", "us") + np.array([at for _, at in keys], "m8[m]")
    rows["trades"] = np.arange(len(keys))
    return Bars(tickers, rows)


@pytest.mark.parametrize(
    ("keys", "order", "last"),
    [
        ([], [], []),
        ([(2, 0), (2, 1), (0, 0)], [0, 1, 2], [True] * 3),
        ([(0, 0), (0, 1), (2, 0), (1, 5)], [2, 0, 1, 3], [True] * 4),  # each ticker's in the order of time
        ([(0, 1), (0, 0), (2, 0), (0, 1)], [2, 1, 0, 3], [False, True, True, True]),
    ],
)
def test_the_order_of_the_key_is_that_of_bytes(keys: list[tuple[int, int]], order: list[int], last: list[bool]) -> None:
    bars = _bars(("a", "é", "Z"), keys)  # Z before a before é
    assert in_order(bars).tolist() == order
    assert is_latest(bars).tolist() == last
    assert ordered(bars).rows["trades"].tolist() == order


def block(ticker: str, length: int) -> Bars:
    rows = np.zeros(length, BAR)
    rows["session"] = np.arange(length).astype("M8[D]")
    rows["ts"], rows["open"], rows["trades"] = rows["session"], np.arange(length), np.arange(length) % 3 - 1
    return Bars((ticker,), rows)


def test_blocks_are_sent_as_if_they_were_one() -> None:
    lengths = {"A": 1, "BB": 3_000, "C": 2, "DDD": 1, "E": 2_048, "F": 700}
    blocks = [block(ticker, length) for ticker, length in lengths.items()]
    series = Series("polygon", "1d", UUID(int=1))
    apart, together = (whole_rows(these, series) for these in (blocks, [Bars.concat(blocks)]))
    count = sum(lengths.values())
    for begin, end in ((0, count), (0, 1), (1, 3_001), (2_048, 4_096), (3_000, 3_005), (count - 1, count)):
        assert encode(apart(slice(begin, end))) == encode(together(slice(begin, end))), (begin, end)


def test_blocks_that_are_in_the_order_of_the_key_are_left_as_they_are() -> None:
    first, second = block("A", 4), block("B", 4)
    assert in_key_order([first, second]) == [first, second]
    backwards = Bars(first.tickers, first.rows[::-1])
    for blocks in ([second, first], [first, first], [backwards, second], [Bars.concat([first, second]), second]):
        (one,) = in_key_order(blocks)
        names = [one.tickers[i] for i in one.rows["ticker"]]
        keys = list(zip(names, one.rows["ts"].tolist(), strict=True))
        assert keys == sorted(keys)
        assert len(keys) == sum(map(len, blocks))
