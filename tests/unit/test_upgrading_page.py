"""docs/upgrading.md: its commands can be typed, and it names all that going back deletes."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest

from infra.migrations.down import FIRST, LOST

PAGE = (Path(__file__).parents[2] / "docs" / "upgrading.md").read_text()
COMMANDS = sorted(set(re.findall(r"python -m (infra\.\S+) ([^`\n]+)", PAGE)))


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_a_command_can_be_typed(module: str, arguments: str) -> None:
    name = f"{module}.__main__" if module == "infra.migrations" else module
    command: click.Command = import_module(name).main
    rest = shlex.split(arguments)
    if isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
    command.make_context("it", rest)  # or it raises a usage error


def test_all_kinds_of_command_are_there() -> None:
    assert {f"{module} {arguments.split()[0]}" for module, arguments in COMMANDS} == {
        "infra.backup dump",
        "infra.backup restore",
        "infra.migrations --down-to",
        "infra.migrations --writer",
    }


def test_what_going_back_deletes_is_named() -> None:
    rows = dict(re.findall(r"^\| (0\d\d\d)(?:, \d{4})? \| (.+) \|$", PAGE, re.M))
    for revision, tables in LOST.items():
        for table, columns in tables.items():
            if table == "claim":
                continue  # of runs that are under way, of which there are none
            names = [f"`{table}`"] if columns is None else [f"{table}.{column}" for column in columns]
            for name in names:
                again = name in ("split.known_from", "run.as_of", "facts_watermark.known")
                assert name in (PAGE if again else rows[revision]), name
    assert f"Below {FIRST['postgresql']}, on Oracle {FIRST['oracle']}" in PAGE
