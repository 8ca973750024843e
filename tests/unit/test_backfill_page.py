"""docs/backfill.md: its commands say what it says they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from closingbell.cli import cli

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "backfill.md").read_text()

#: Every console block: its command, and what it prints.
SHOWN = re.findall(r"^```console\n\$ closingbell (.+)\n((?:.+\n)*?)```$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("command", "printed"), [(command, printed) for command, printed in SHOWN if printed])
def test_a_plan_is_as_the_page_has_it(
    command: str, printed: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DATABASE_URL": database_url,
        "POLYGON_API_KEY": "canary-3fe1",
        "CLOSINGBELL_NOW": "2026-11-22T12:00:00+00:00",
    }.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli, shlex.split(command))
    assert result.output == printed


def test_other_commands_have_the_options_that_it_names() -> None:
    others = [shlex.split(command) for command, printed in SHOWN if not printed]
    assert others
    for name, *arguments in others:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, arguments)
