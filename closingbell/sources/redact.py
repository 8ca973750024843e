"""No error text holds the key, or a character that acts, whoever wrote the text."""

from __future__ import annotations

import re

from closingbell.errors import ClosingbellError
from closingbell.text import visible


class Redactor:
    """Takes the key out of texts that others wrote, such as an error message that quotes it, and escapes what is left.

    Not even a line end stays: a vendor's message shall not write lines of its own into a log or a report.
    """

    def __init__(self, key: str) -> None:
        # In URLs and in JSON a character may be written otherwise, and a host is in lower case.
        ways = (rf"(?:{re.escape(c)}|%{ord(c):02x}|\\{re.escape(c)}|\\u{ord(c):04x})" for c in key)
        self._key = re.compile("".join(ways), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        return visible(self._key.sub("(key)", text))

    def clean(self, error: ClosingbellError) -> ClosingbellError:
        """``error`` itself, its text without the key and on one line."""
        error.args = (self(str(error)),)
        if isinstance(error.value, str):
            error.value = self(error.value)
        return error
