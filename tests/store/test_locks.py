"""Locks by name, and what became of a transaction: what each kind of database does in a way of its own."""

from __future__ import annotations

import threading
from typing import Any

from background import TIME, InBackground
from blocks import start

from closingbell.store import Store
from closingbell.store.database import database_of
from closingbell.store.faults import transaction


def test_a_lock_is_held_by_one_until_its_transaction_ends(store: Store) -> None:
    engine, database = store.engine, database_of(store.engine)
    with engine.connect() as one, engine.connect() as other:
        database.lock(one, "x")
        assert not database.try_lock(other, "x")
        assert database.try_lock(other, "y")
        one.rollback()
        assert database.try_lock(other, "x")
        other.commit()
        database.lock(one, "x")


def test_a_lock_may_be_taken_twice(store: Store) -> None:
    database = database_of(store.engine)
    with transaction(store.engine) as connection:
        database.lock(connection, "x")
        database.lock(connection, "x")
        assert database.try_lock(connection, "x")


def test_a_lock_that_several_want_for_the_first_time(store: Store) -> None:
    gate, inside = threading.Barrier(4), list[int]()

    def take() -> None:
        gate.wait(TIME)
        with transaction(store.engine) as connection:
            database_of(connection).lock(connection, "first")
            inside.append(1)
            assert len(inside) == 1
            inside.pop()

    for waiting in [InBackground(take) for _ in range(4)]:
        waiting.result()


def test_the_fate_of_a_transaction(store: Store) -> None:
    engine, database = store.engine, database_of(store.engine)

    def fate(begun: Any, committing: bool = True) -> bool:
        with transaction(engine) as connection:
            return database.fate(connection, begun, committing=committing)

    with transaction(engine) as connection:
        made = database.begin(connection, 5, 0)
    assert fate(made)
    assert fate(made), "to have asked changes nothing"
    with engine.connect() as connection:
        lost = database.begin(connection, 5, 0)
    assert not fate(lost)
    assert not fate(lost)
    assert not fate(lost, committing=False)
    database.committed(made)
    with transaction(engine) as connection:
        again = database.begin(connection, 5, 0)
    assert fate(again)


def test_a_run_that_lives_is_known_by_its_lock(store: Store) -> None:
    run_id = start(store)
    assert not store.records.is_alive(run_id)
    with store.records.alive(run_id):
        assert store.records.is_alive(run_id)
    assert not store.records.is_alive(run_id)


def test_what_the_past_has_left_is_forgotten(store: Store) -> None:
    """And nothing that is needed."""
    run_id = start(store)
    with store.records.alive(run_id):
        with transaction(store.engine) as connection:
            database_of(connection).forget(connection)
        assert store.records.is_alive(run_id)
