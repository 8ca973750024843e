"""What went wrong, grouped by what the caller should do about it.

    ClosingbellError
    ├── ConfigurationError    stop; a person has to set something      (no gap: nothing was asked)
    ├── RetryableError        wait (honour ``retry_after``), ask again  -> gap reason ``failed``
    │   └── MalformedResponseError   the answer breaks its own contract -> gap reason ``failed``
    ├── NotYetPublishedError  ask again on the next run                 -> gap reason ``unpublished``
    ├── NotEntitledError      do not ask again with this plan or key    -> gap reason ``unentitled``
    ├── UnknownTickerError    the vendor says it does not exist         -> gap reason ``empty``
    ├── BadDataError          the bar breaks a rule                     -> gap reason ``quarantined``
    ├── RunEndingError        the run is being stopped; not tried       -> gap reason ``pending``
    ├── UnexpectedError       a bug of ours; the other calls go on      -> gap reason ``failed``
    └── FatalError            this run cannot go on

Every message says what failed, the offending value and the fix. ``what`` is the same sentence for every
ticker that fails the same way, so a report can group by it. No message ever holds a key or a password, nor a
character that steers a terminal.
"""

from __future__ import annotations

from typing import ClassVar, Final

from closingbell.text import visible

#: Characters of a value that a message shows.
_LONGEST: Final = 4_000


class ClosingbellError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        what: what failed, without the particulars, so that equal causes compare equal.
        value: the offending value; never a secret.
        fix: what the reader should do.
    """

    #: The gap reason that a cell gets when this error is why it has no bar; None where no cell is concerned.
    reason: ClassVar[str | None] = None

    def __init__(self, what: str, *, value: object = None, fix: str = "") -> None:
        self.what = what
        self.value = value
        self.fix = fix
        shown = what if value is None else f"{what}: {_cut(str(value))}"
        super().__init__(visible(f"{shown}. {fix}" if fix else shown, keep="\n"))

    def __reduce__(self) -> tuple[object, ...]:
        """An error may cross from one process to another, whatever its value is: that goes as text."""
        state = {**self.__dict__, "value": None if self.value is None else _cut(str(self.value))}
        return _restored, (type(self), self.args, state)


def _restored(kind: type[ClosingbellError], args: tuple[object, ...], state: dict[str, object]) -> ClosingbellError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def _cut(text: str) -> str:
    """What a message has room for: a value may be a name of a million characters, or the end of a log."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class ConfigurationError(ClosingbellError):
    """A setting is missing or wrong; nothing will work until a person changes it."""


class RetryableError(ClosingbellError):
    """The call may succeed later.

    Args:
        retry_after: seconds the server asked us to wait, if it said so.
        status: the HTTP status, if there was an answer.
    """

    reason = "failed"

    def __init__(
        self,
        what: str,
        *,
        value: object = None,
        fix: str = "",
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(what, value=value, fix=fix)
        self.retry_after = retry_after
        self.status = status


class MalformedResponseError(RetryableError):
    """The answer is truncated, of another ticker, or short of its own count: a failure, never an empty success."""


class NotYetPublishedError(ClosingbellError):
    """The vendor has not published this session yet."""

    reason = "unpublished"


class NotEntitledError(ClosingbellError):
    """The key's plan does not include this data; asking again changes nothing."""

    reason = "unentitled"


class UnknownTickerError(ClosingbellError):
    """The vendor knows no such ticker."""

    reason = "empty"


class BadDataError(ClosingbellError):
    """A bar breaks a rule and belongs in quarantine."""

    reason = "quarantined"


class RunEndingError(ClosingbellError):
    """The run is being stopped: what it has not tried is left to the next."""

    reason = "pending"


class UnexpectedError(ClosingbellError):
    """A bug of ours, met while handling one call: its cells fail, the other calls go on."""

    reason = "failed"


class FatalError(ClosingbellError):
    """This run cannot go on, and waiting would not help."""
