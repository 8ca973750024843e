"""A run that somebody deletes while a command waits for it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from closingbell.errors import FatalError
from deployments.local import _cancel, wait_for_run

pytestmark = pytest.mark.prefect


def test_a_run_that_is_gone_is_told_in_words(prefect_api: str) -> None:
    with pytest.raises(FatalError, match="deleted the run") as told:
        wait_for_run(gone := uuid4(), lambda: None)
    assert told.value.value == gone
    _cancel(gone)  # there is nothing to call off
