"""What holds for every command: help on one screen, quick, one JSON object, exit codes that scripts can rely on."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from closingbell import exits
from closingbell.cli import CANNOT_RUN, HELP, OK, cli

#: What takes long to import, and what no help may.
HEAVY = ("numpy", "pandas", "scipy", "matplotlib", "sqlalchemy", "prefect", "starlette", "uvicorn", "distributed")


def every(group: click.Group = cli, *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every command, those of groups too."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every(command, *path, name)


EVERY = sorted(every())


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found
        command = found
    return command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    def ran(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(arguments)
        return code, *capsys.readouterr()

    return ran


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_is_one_screen_with_an_example_that_can_be_typed(path: tuple[str, ...], run: Any) -> None:
    code, told, _ = run(*path, "--help")
    lines = told.splitlines()
    assert code == OK
    assert len(lines) <= 44
    assert max(map(len, lines)) <= 80
    command = command_at(path)
    without = [option.opts for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not [names for names in without if names != ["--help"]], "an option says what it does"
    if isinstance(command, click.Group):
        return
    examples = [line.strip() for line in lines if line.strip().startswith("closingbell ")]
    assert examples
    for example in examples:
        words = shlex.split(example)[1:]
        assert tuple(words[: len(path)]) == path
        command_at(path).make_context(path[-1], words[len(path) :])


def test_each_has_its_line_in_the_list(run: Any) -> None:
    _, told, _ = run("--help")
    assert set(HELP) == {path[0] for path in EVERY}
    shown = " ".join(told.split())
    assert [name for name, line in HELP.items() if f" {name} {line}" not in shown] == []


def test_no_help_waits_for_what_only_work_needs() -> None:
    code = f"""
import sys
from closingbell.cli import cli
for path in {EVERY!r}:
    assert cli.run([*path, "--help"]) == 0
print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.strip() == "[]"


WRONG = [
    (("plan", "-t", "aapl"), "this is not a ticker", "'aapl' (ticker 1)"),
    (("ingest", "-t", "@{folder}/tickers.txt"), "this is not a ticker", "'brk-b' (line 3 of {folder}/tickers.txt)"),
    (("backfill", "-u", "sp501"), "there is no such universe", "'sp501'"),
    (("retry", "yesterday"), None, None),
    (("status", "$AAPL"), "this is not a ticker", "'$AAPL' (the one asked for)"),
    (("universe", "sp500@noon"), "the date of a universe cannot be read", "'sp500@noon'"),
    (("derive-events", "--detector", "cats"), None, None),
    (("facts", "-t", "aapl"), "this is not a ticker", "'aapl' (ticker 1)"),
    (("reconcile", "-t", ""), "the list of tickers is empty", None),
    (
        ("market", "--replay", "{folder}/bars.csv", "--port", "0"),
        "the replay file has a value that cannot be read",
        None,
    ),
]


@pytest.mark.parametrize(("arguments", "what", "value"), WRONG, ids=[each[0][0] for each in WRONG])
def test_an_error_is_one_json_object_with_what_value_and_fix(
    arguments: tuple[str, ...], what: str | None, value: str | None, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "tickers.txt").write_text("AAPL\n\nbrk-b\n")
    (tmp_path / "bars.csv").write_text(BARS.replace("190.5", "n/k"))
    code, out, errors = run(*(word.format(folder=tmp_path) for word in arguments), "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == CANNOT_RUN
    assert told["fix"]
    assert told["error"].startswith(told["what"])
    assert told["error"] in errors
    assert what in (None, told["what"])
    assert value is None or told["value"] == value.format(folder=tmp_path)


@pytest.mark.parametrize("path", [path for path in EVERY if path != ("picture",)], ids=" ".join)
def test_a_wrong_option_is_told_the_same_way(path: tuple[str, ...], run: Any) -> None:
    code, out, _ = run(*path, "--jason", "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == CANNOT_RUN
    assert "--jason" in told["what"]
    assert told["fix"] == f"See closingbell {' '.join(path)} --help."
    code, out, errors = run(*path, "--jason")
    assert (code, out) == (CANNOT_RUN, "")
    assert "--jason" in errors


@pytest.mark.parametrize("name", ["plan", "ingest", "backfill", "facts", "derive-events"])
def test_tickers_beside_a_universe_are_refused(name: str, run: Any) -> None:
    code, _, errors = run(name, "-u", "sp500", "-t", "X:BTCUSD")
    assert code == CANNOT_RUN
    assert "not both" in errors


@pytest.mark.parametrize("name", ["plan", "ingest", "retry", "status", "doctor", "up"])
def test_a_home_that_cannot_be_written_is_one_readable_error(
    name: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLOSINGBELL_HOME", str(tmp_path / "file" / "home"))
    code, out, errors = run(name, "--json")
    told = json.loads(out)
    assert code == CANNOT_RUN
    assert "Traceback" not in errors
    assert str(tmp_path / "file" / "home") in json.dumps(told)


BARS = """\
ticker,date,open,high,low,close,volume
AAPL,2026-03-02,190,191,189,190.5,1000
AAPL,2026-03-03,190,191,189,190,9
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("190.5", "n/k", "'n/k' in column close, row 1 of"),
        ("2026-03-03", "2026-03-33", "'2026-03-33' in column date, row 2 of"),
        ("close", "closed", "lacks columns"),
        (BARS, "", "cannot be read"),
        (BARS, "\x00\xff\x00", "lacks columns"),
    ],
)
def test_a_replay_file_says_which_of_its_values_is_wrong(
    old: str, new: str, said: str, run: Any, tmp_path: Path
) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(BARS.replace(old, new))
    code, _, errors = run("market", "--replay", str(path), "--port", "0")
    assert code == CANNOT_RUN
    assert "Traceback" not in errors
    assert said in errors


@pytest.mark.parametrize(
    ("raised", "code", "what"),
    [
        (ZeroDivisionError("a bug"), CANNOT_RUN, "unexpected"),
        (KeyboardInterrupt(), exits.CANCELLED, "stopped"),
    ],
)
def test_nothing_that_ends_a_command_looks_like_failed_cells(
    raised: BaseException, code: int, what: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise raised

    monkeypatch.setattr("closingbell.universe.load", fail)
    ended, out, _ = run("universe", "--json")
    told = json.loads(out)
    assert (ended, told["exit_code"], told["what"]) == (code, code, what)


def test_a_reader_that_goes_away_is_no_failure_of_cells() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        command = [sys.executable, "-m", "closingbell.cli", "universe"]
        done = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (exits.UNREAD, "")
