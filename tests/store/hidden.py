"""A password that no error may show."""

from __future__ import annotations

import pickle
import traceback

from closingbell.errors import ClosingbellError

PASSWORD = "s3cret/pa:ss@w%rd"


def without_password(error: ClosingbellError) -> ClosingbellError:
    """Check that nothing reachable from the error holds any part of the password."""
    formatted = "".join(traceback.format_exception(error))
    seen = [str(error), repr(error), formatted, repr(error.value), error.fix, str(pickle.loads(pickle.dumps(error)))]  # noqa: S301
    for text in seen:
        for secret in (PASSWORD, "s3cret", "w%rd", "w%25rd"):
            assert secret not in text
    assert error.__cause__ is None
    assert error.__context__ is None
    return error
