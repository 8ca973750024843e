"""Nights in which anything goes wrong: nothing is lost, nothing is false, and one calm night heals what is missing."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest
from prefect.client.orchestration import get_client

from closingbell.settings import load
from tasks.limits import limit_name
from tests.soak.conftest import Weeks
from tests.soak.faults import KINDS, SLOW
from tests.soak.weeks import WEEK, BrokenLawError

pytestmark = pytest.mark.prefect


def test_a_few_fault_nights(weeks: Weeks) -> None:
    said: list[str] = []
    quick = sorted(set(KINDS) - set(SLOW))
    with weeks.week(7, 0, quick, said.append, kills=False) as week:
        week.play(3)
    assert len(said) >= 3


@pytest.mark.soak
def test_fault_nights(weeks: Weeks, say: Callable[[str], None]) -> None:
    """Goes on after a week that breaks a law, and names all of those at its end."""
    given = os.environ.get
    seed = int(given("CLOSINGBELL_SOAK_SEED") or random.randrange(2**32))
    nights, week_only = int(given("CLOSINGBELL_SOAK_NIGHTS") or 200), given("CLOSINGBELL_SOAK_WEEK")
    kinds = given("CLOSINGBELL_SOAK_FAULTS", ",".join(sorted(KINDS))).split(",")
    if given("CLOSINGBELL_TEST_POSTGRES_URL"):  # somebody's server, whose processes need not be on this machine
        kinds = [kind for kind in kinds if kind != "crash"]
    say(f"\nseed {seed}; the same nights again: CLOSINGBELL_SOAK_SEED={seed} make soak")
    broken: list[int] = []
    for number in [int(week_only)] if week_only else range(-(-nights // WEEK)):
        with weeks.week(seed, number, kinds, say) as week:
            try:
                week.play(WEEK)
            except BrokenLawError as error:
                say(f"BROKEN {error}")
                say(f"this week alone: CLOSINGBELL_SOAK_SEED={seed} CLOSINGBELL_SOAK_WEEK={number} make soak")
                broken.append(number)
    assert not broken, f"weeks {broken} of seed {seed} broke a law"
    assert no_slot_is_held(within=180.0), "slots of the quota are held by runs that are over"


def no_slot_is_held(within: float) -> bool:
    """Whether the quota's slots are free by then: those of killed runs come back when their leases end."""
    name, deadline = limit_name(load().quota), time.monotonic() + within
    with get_client(sync_client=True) as client:
        while client.read_global_concurrency_limit_by_name(name).active_slots:
            if time.monotonic() > deadline:
                return False
            time.sleep(1.0)
    return True
