"""No error text holds the key, whoever wrote the text."""

from __future__ import annotations

from urllib.parse import quote

from closingbell.errors import ClosingbellError


class Redactor:
    """Takes the key out of texts that others wrote, such as an error message that quotes it."""

    def __init__(self, key: str) -> None:
        self._forms = {key, quote(key, safe="")}

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "(key)")
        return text

    def clean(self, error: ClosingbellError) -> ClosingbellError:
        """``error`` itself, its text without the key."""
        error.args = (self(str(error)),)
        if isinstance(error.value, str):
            error.value = self(error.value)
        return error
