"""The errors: what they carry, that they travel, and that their drawing is true."""

from __future__ import annotations

import copy
import pickle
import re
import threading

import pytest

import closingbell.store
from closingbell import errors
from closingbell.cells import REASONS
from closingbell.errors import ClosingbellError, ConfigurationError, MalformedResponseError, RetryableError
from closingbell.text import visible

assert closingbell.store  # subclasses in the domain are found once their modules are loaded


def family(kind: type[ClosingbellError]) -> list[type[ClosingbellError]]:
    below = [one for sub in kind.__subclasses__() for one in family(sub)]
    return [kind, *(one for one in below if one.__module__.startswith("closingbell."))]


@pytest.mark.parametrize("kind", family(ClosingbellError))
def test_an_error_says_what_value_and_fix(kind: type[ClosingbellError]) -> None:
    error = kind("the vendor failed", value="HTTP 500", fix="Ask again.")
    assert str(error) == "the vendor failed: HTTP 500. Ask again."
    assert (error.what, error.value, error.fix) == ("the vendor failed", "HTTP 500", "Ask again.")
    assert str(kind("the vendor failed")) == "the vendor failed"
    assert str(kind("the vendor failed", value=0)) == "the vendor failed: 0", "0 is a value"
    assert str(kind("the vendor failed", fix="Wait.")) == "the vendor failed. Wait."


@pytest.mark.parametrize("kind", family(ClosingbellError))
def test_an_error_survives_a_journey(kind: type[ClosingbellError]) -> None:
    error = kind("the vendor failed", value="HTTP 500", fix="Ask again.")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(other) is kind
        assert str(other) == str(error)
        assert (other.what, other.value, other.fix, other.args) == (error.what, error.value, error.fix, error.args)


def test_what_cannot_travel_travels_as_text() -> None:
    error = pickle.loads(pickle.dumps(ConfigurationError("it stops", value=threading.Lock)))  # noqa: S301
    assert error.value == str(threading.Lock)
    assert str(error) == f"it stops: {threading.Lock}"


@pytest.mark.parametrize("kind", [RetryableError, MalformedResponseError])
def test_what_the_server_asked_for_travels_too(kind: type[RetryableError]) -> None:
    error = pickle.loads(pickle.dumps(kind("slow down", retry_after=1.5, status=429)))  # noqa: S301
    assert (error.retry_after, error.status) == (1.5, 429)
    assert (kind("no answer").retry_after, kind("no answer").status) == (None, None)


def test_equal_causes_have_equal_words_whatever_the_ticker() -> None:
    a, b = (RetryableError("the vendor failed", value=ticker) for ticker in ("AAPL", "MSFT"))
    assert a.what == b.what
    assert str(a) != str(b)


def test_the_drawing_is_the_hierarchy() -> None:
    """Each line of the tree names a class, under its base, and with its gap reason if cells are concerned."""
    drawn: list[tuple[str, str | None, str | None]] = []
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^(?P<lead>[\s│├└─]*)(?P<name>[A-Z]\w+Error)\b(?P<rest>.*)$", line)
        if not match or not match["lead"]:
            continue
        depth = len(match["lead"])
        path = [(d, name) for d, name in path if d < depth]
        reason = re.search(r"gap reason ``(\w+)``", match["rest"])
        drawn.append((match["name"], path[-1][1] if path else None, reason and reason[1]))
        path.append((depth, match["name"]))
    actual = [
        (kind.__name__, None if kind is ClosingbellError else kind.__base__.__name__, kind.reason)  # type: ignore[union-attr]
        for kind in family(ClosingbellError)
        if kind.__module__ == errors.__name__
    ]
    assert sorted(drawn, key=str) == sorted(actual, key=str)
    assert len(drawn) == 11


def test_each_reason_of_an_error_is_a_gap_reason() -> None:
    reasons = {kind.reason for kind in family(ClosingbellError)} - {None}
    assert reasons == set(REASONS)
    assert ConfigurationError.reason is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("AAPL: 10 bars, ünïcode", "AAPL: 10 bars, ünïcode"),
        ("a\x1b[2Jb\x9b31m", "a\\x1b[2Jb\\x9b31m"),
        ("a\r\nb\u2028c\x00", "a\\r\\nb\\u2028c\\x00"),
        ("\u202eLPAA\u200b", "\\u202eLPAA\\u200b"),
    ],
)
def test_what_acts_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_no_message_steers_a_terminal_or_goes_on_for_ever() -> None:
    error = ConfigurationError("it\x1b[2J failed", value="line 1\nline 2\x9b" + "x" * 1_000_000, fix="Do\x07.")
    assert str(error).startswith("it\\x1b[2J failed: line 1\nline 2\\x9bxxx")
    assert str(error).endswith("xxx. Do\\x07.")
    assert len(str(error)) < 5_000
