"""How fast calls go, and how long the rest takes."""

from __future__ import annotations

from closingbell.pace import Pace


def paced(planned: int, *seen: tuple[float, int]) -> Pace:
    pace = Pace(planned)
    for at, made in seen:
        pace.see(made, at)
    return pace


def test_rate_and_time_left_are_those_of_the_last_minutes() -> None:
    pace = paced(1_000, (0, 0), (100, 500), (220, 512))
    assert pace.rate == 0.1
    assert (pace.left, pace.seconds_left) == (488, 4_880)
    assert pace.rate_told == "6.0 calls a minute"
    assert pace.told(12_345) == "512 of 1,000 calls, 12,345 bars, 6.0 calls a minute, 81.3 min to go"


def test_a_burst_and_a_wait_are_one_rate() -> None:
    looks = [(second, 5 * (second // 60 + 1)) for second in range(0, 300, 3)]
    pace = paced(499, *looks)
    assert 2 / 60 < pace.rate < 9 / 60, "five calls a minute, whenever it is looked"
    assert len(pace._seen) < 40, "the past is forgotten"


def test_nothing_is_said_that_is_not_known() -> None:
    assert paced(10).told(0) == "0 of 10 calls, 0 bars, 0.0 calls a minute"
    assert paced(10, (5, 3)).seconds_left is None
    assert paced(10, (0, 0), (1, 20)).left == 0
    assert (paced(10, (0, 0), (1, 20)).share, paced(0).share) == (1.0, 1.0)
    assert paced(10, (0, 0), (1, 20)).told(7) == "20 of 10 calls, 7 bars, 20.0 calls/s"
