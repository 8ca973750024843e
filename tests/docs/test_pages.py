"""What the pages show is what happens.

``CLOSINGBELL_DOCS=write`` (``make docs-generate``) writes the pages instead of comparing them.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from closingbell.cli import cli
from closingbell.settings import Settings, load
from closingbell.store import open_store
from docs import generate
from infra import embedded, standing
from infra.market.process import MarketProcess
from tests.docs.pages import PAGES, ROOT, Step, blocks, steps

pytestmark = pytest.mark.prefect

WRITE = os.environ.get("CLOSINGBELL_DOCS") == "write"

#: The day on which everything on the pages happens: a Sunday.
NOW = "2026-11-22T12:00:00+00:00"

#: Where the pages say that they are.
HOME = "/home/me/bars"

#: These need no Prefect server, and are run without one.
READING = ("plan", "status", "doctor", "universe", "picture")

#: What differs from one run to the next.
MASKS = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "RUN_ID"),
    (r"\b\d+(\.\d+)? s\b", "N s"),
    (r"\b\d+(\.\d+)? min\b", "N min"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"[\d.,]+ GB free", "N GB free"),
    (r"^(  )?20\d\d-\d\d-\d\d \d\d:\d\d", "WHEN"),
    (r"seen 20\d\d-\d\d-\d\d", "seen DAY"),
    (r"^(time    ).*", r"\1..."),
    (r"^(warned  .*) \(.*\)$", r"\1 (...)"),  # the first ones that came, by whichever thread
)

#: What a run says of itself when it takes longer than ten seconds.
SLOW = re.compile(r" +[\d,]+ of [\d,]+ calls, ")


def masked(lines: list[str]) -> list[str]:
    """Lines without what differs from one run to the next."""
    lines = [line for line in lines if not SLOW.match(line)]
    for pattern, name in MASKS:
        lines = [re.sub(pattern, name, line) for line in lines]
    return lines


@pytest.fixture(scope="module")
def stand_in() -> Iterator[MarketProcess]:
    """The stand-in market as it is where nothing is set, one for all commands: each would start its own."""
    with MarketProcess(size=Settings.model_fields["market_size"].default, now=NOW) as running:
        yield running


@pytest.fixture
def terminal(
    database_url: str,
    prefect_api: str,
    stand_in: MarketProcess,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Terminal:
    """A terminal in an empty directory, beside a Prefect server with the quota's limit."""
    from deployments.bootstrap import bootstrap

    for name, value in {
        "DATABASE_URL": database_url,
        "CLOSINGBELL_NOW": NOW,
        "CLOSINGBELL_HOME": str(tmp_path / ".closingbell"),
        "COLUMNS": "120",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    usual, own = standing.market_identity(load()), embedded.market

    def market(settings: Settings, started: list[str]) -> AbstractContextManager[str]:
        return nullcontext(stand_in.url) if standing.market_identity(settings) == usual else own(settings, started)

    monkeypatch.setattr(embedded, "market", market)
    bootstrap(load())
    return Terminal(tmp_path, prefect_api, monkeypatch)


class Terminal:
    """Runs what a page tells to type, in this process.

    Args:
        folder: where.
        prefect_api: the Prefect server, for what runs flows.
        monkeypatch: puts the environment back at the end.
    """

    def __init__(self, folder: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._prefect_api = prefect_api
        self._patch = monkeypatch
        self._names: dict[str, Any] = {}
        self._code = 0

    def run(self, step: Step) -> list[str]:
        """What a command prints, errors included."""
        command, _, pipe = step.command.partition(" | ")
        words = shlex.split(command, comments=True)
        shown = self._run(words)
        lines = shown.replace(str(self._folder), HOME).splitlines()
        if not pipe:
            return lines
        program, *arguments = shlex.split(pipe, comments=True)
        assert program == "head", step.command
        return lines[: int(arguments[0].removeprefix("-"))]

    def _run(self, words: list[str]) -> str:
        if words == ["echo", "$?"]:
            return f"{self._code}\n"
        if words[0] == "export":
            for name, _, value in (word.partition("=") for word in words[1:]):
                self._patch.setenv(name, value)
            return ""
        assert words[0] == "closingbell", words
        if words[1] == "market":
            return _served(words[1:])
        if words[1] in READING:
            self._patch.delenv("PREFECT_API_URL", raising=False)
        else:
            self._patch.setenv("PREFECT_API_URL", self._prefect_api)
        out, errors = io.StringIO(), io.StringIO()
        quiet = "2>/dev/null" in words
        with redirect_stdout(out), redirect_stderr(errors if quiet else out):
            self._code = cli.run([word for word in words[1:] if word != "2>/dev/null"])
        return out.getvalue()

    def execute(self, code: str, page: Path) -> list[str]:
        """What a page's Python prints; what it names stays for the next block."""
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(code, page.name, "exec"), self._names)  # noqa: S102  (our own page)
        return out.getvalue().splitlines()


def _served(arguments: list[str]) -> str:
    """What a command says that then serves until Ctrl-C, of which its last line tells."""
    said = ""
    with subprocess.Popen(
        [sys.executable, "-m", "closingbell.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        process.terminate()
    return said


def test_the_page_of_all_commands_has_each_of_them_as_it_is() -> None:
    page = ROOT / "docs" / "commands.md"
    wanted = generate.commands_page()
    if WRITE:
        page.write_text(_with_outputs(wanted, page))
    assert _without_outputs(page) == wanted, "make docs-generate"


def _without_outputs(page: Path) -> str:
    """A page as it was generated: blocks that are run have their commands alone."""
    lines = page.read_text().splitlines()
    for block in reversed([block for block in blocks(page) if block.run]):
        lines[block.first : block.last] = [f"$ {step.command}" for step in steps(block)]
    return "\n".join(lines) + "\n"


def _with_outputs(text: str, old: Path) -> str:
    """A new page with what the old one knows to be printed: what is the same stays as it is."""
    known = {step.command: step.output for block in blocks(old) for step in steps(block)} if old.exists() else {}
    old.write_text(text)
    lines = text.splitlines()
    for block in reversed([block for block in blocks(old) if block.run]):
        lines[block.first : block.last] = [
            line for step in steps(block) for line in (f"$ {step.command}", *known.get(step.command, ()))
        ]
    return "\n".join(lines) + "\n"


def test_the_page_of_all_tables_is_made_of_them(database_url: str) -> None:
    page = ROOT / "docs" / "schema.md"
    with closing(open_store(database_url)) as store:
        wanted = generate.schema_page(store.engine)
    if WRITE:
        page.write_text(wanted)
    assert page.read_text() == wanted, "make docs-generate"


RUN = [page for page in PAGES if WRITE or any(block.run for block in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=[page.name for page in RUN])
def test_what_the_page_shows_is_what_happens(page: Path, request: pytest.FixtureRequest) -> None:
    found = blocks(page)
    if not any(block.run for block in found):
        return
    terminal: Terminal = request.getfixturevalue("terminal")
    lines = page.read_text().splitlines()
    written = []
    for number, block in enumerate(found):
        if not block.run:
            continue
        if block.language == "python":
            shown = found[number + 1]
            assert shown.language == "text", "what Python prints follows it as text"
            written.append((shown, _compared(shown.text.splitlines(), terminal.execute(block.text, page))))
            continue
        after = []
        for step in steps(block):
            after += [f"$ {step.command}", *_compared(step.output, terminal.run(step), step.command)]
        written.append((block, after))
    for block, after in reversed(written):
        lines[block.first : block.last] = after
    if WRITE:
        page.write_text("\n".join(lines) + "\n")


def _compared(shown: list[str], printed: list[str], command: str = "") -> list[str]:
    """What is to stand on the page; what it has, if that is the same but for what differs each time."""
    if masked(shown) == masked(printed):
        return shown
    if not WRITE:
        assert masked(shown) == masked(printed), command
    return printed
