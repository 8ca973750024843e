"""Each command that a page shows exists, with the options it is shown with; code compiles; links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from closingbell.cli import cli
from tests.docs.pages import NAMES, PAGES, ROOT, anchors, blocks, code_in_text, commands, files_in_text, links

TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))

#: What pages may show besides: other people's programs, and the shell's own.
OTHERS = {
    *("prefect", "docker", "kubectl", "systemctl", "dask", "pip", "curl", "git", "python3", "crontab"),
    *("psql", "pg_dump", "pg_restore", "createdb", "dropdb", "sqlplus", "expdp", "impdp", "rman"),
    *("export", "cd", "cat", ".", "source", "echo", "test", "if", "then", "fi", "case", "esac", "head", "grep"),
    *("mkdir", "cp", "mv", "ls", "tar", "gzip", "kill", "sudo", "open"),
}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_on_the_page_exists(page: Path) -> None:
    for words in [*commands(page), *code_in_text(page)]:
        program, *arguments = words
        if program == "closingbell":
            _parse(arguments)
        elif program == "make":
            assert next(word for word in arguments if "=" not in word and not word.startswith("-")) in TARGETS, words
        elif program.endswith("python") or program == "python3":
            assert "-m" not in arguments or find_spec(arguments[arguments.index("-m") + 1]), words
        else:
            known = program in OTHERS or (ROOT / program).exists() or "/" in program
            assert known, f"{program}: what is it? If it is right, name it in OTHERS"


def _parse(arguments: list[str]) -> None:
    """Let the real command read these arguments, without running it."""
    if not arguments or arguments[0].startswith("-"):
        cli.make_context("closingbell", list(arguments), resilient_parsing=True)
        return
    name, *rest = arguments
    command = cli.get_command(click.Context(cli), name)
    assert command, f"there is no command {name}"
    command.make_context(name, rest, resilient_parsing="--help" in rest)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_code_on_the_page_can_be_read(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif block.language == "json":
            json.loads(block.text)
        assert block.language != "shell", "write console for a session with output, sh for a script"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_that_the_page_names_is_there(page: Path) -> None:
    assert [name for name in files_in_text(page) if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_index() -> None:
    listed = {target.partition("#")[0] for target in links(ROOT / "docs" / "index.md")}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= listed
