"""Input that means harm, or was mistyped: refused in readable words, and nothing of it acts."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter
from prefect.exceptions import ParameterTypeError
from prefect.utilities.schema_tools.validation import is_valid, preprocess_schema

from closingbell import universe
from closingbell.cli import cli
from closingbell.errors import ClosingbellError, ConfigurationError
from flows.facts import facts
from flows.ingest import ingest
from flows.reconcile import reconcile
from flows.retry_failed import retry_failed
from tests.night.conftest import NOW, Nights

TICKERS = [
    "../../etc/passwd",
    "%2e%2e%2fAAPL",
    "..",
    "A/B",
    "A?apiKey=x",
    "A#B",
    "A\x00B",
    "'",
    '"',
    "'; DROP TABLE bar; --",
    "<script>alert(1)</script>",
    "$(reboot)",
    "`reboot`",
    "{{ x }}",
    "\x1b[2J",
    "\u202eAAPL",
    "АAPL",  # noqa: RUF001  (its first letter is Cyrillic)
    "ＡＡＰＬ",  # noqa: RUF001
    "\ud800",
    "-A",
    "aapl",
    "A" * 10_000,
    "https://127.0.0.1:1/x",
]

#: What the command takes for white space between two tickers, and a parameter does not.
SPACED = ["AAPL\n", " AAPL", "A B", "A\nB"]

DATES = [
    "2026-13-01",
    "0001-01-01",
    "'; DROP TABLE bar; --",
    "\x1b[2J",
    "2026-03-02\n",
    "٢٠٢٦-٠٣-٠٢",
    "1e9",
    "tomorrow",
]

UNIVERSES = ["SP500", "../sp500", "sp500\n", "sp500@", "sp500@0001-01-01", "sp500@'; DROP", "\x1b[2J", "x" * 10_000]

RUN_IDS = ["", "'; DROP TABLE run; --", "../../x", "\x1b[2J", "last\n", "0" * 36, "x" * 10_000]


@pytest.fixture
def command(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process, on a database of the test's own."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CLOSINGBELL_NOW", NOW)
    return lambda *arguments: CliRunner().invoke(cli, list(arguments))


def refused(result: Result) -> None:
    """It ended with one readable line, or with the usage."""
    assert result.exit_code != 0
    assert isinstance(result.exception, ClosingbellError | SystemExit), result.exception
    told = f"{result.output}{result.exception}"
    assert told.replace("\n", "").isprintable(), told
    assert len(told) < 5_000


def test_the_command_refuses_tickers(command: Any, tmp_path: Path) -> None:
    for ticker in TICKERS:
        refused(command("plan", f"--tickers={ticker}", "--start", "2026-03-02"))
        refused(command("status", "--", ticker))
        listed = tmp_path / "tickers.txt"
        hash_begins_a_comment = ticker.replace("#", "?")
        listed.write_bytes(f"AAPL\n{hash_begins_a_comment}\n".encode("utf-8", "surrogatepass"))
        refused(command("plan", "--tickers", f"@{listed}", "--start", "2026-03-02"))
    for ticker in SPACED:
        refused(command("status", "--", ticker))


def test_the_command_refuses_dates_universes_and_runs(command: Any) -> None:
    for day in DATES:
        refused(command("plan", "--tickers", "AAPL", f"--start={day}"))
        refused(command("plan", "--tickers", "AAPL", f"--end={day}"))
    for name in UNIVERSES:
        refused(command("plan", f"--universe={name}"))
        refused(command("universe", name))
    for run_id in RUN_IDS:
        refused(command("retry", "--", run_id))
    for size in ("0", "-1", "1e9", "10001", "x"):
        refused(command("ingest", "--tickers", "AAPL", f"--batch-size={size}"))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", ".", "", "x" * 5_000, "a\x1b[2Jb", "/proc/self/environ"])
def test_a_list_of_tickers_is_a_file_of_tickers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as caught:
        universe.parse_tickers(f"@{path}")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 6_000


PARAMETERS = [
    *[{"tickers": [ticker]} for ticker in [*TICKERS, *SPACED]],
    *[{name: day} for name in ("start", "end") for day in DATES if day != "0001-01-01"],
    *[{"universe": name} for name in UNIVERSES],
    *[{"batch_size": size} for size in (0, -1, 10_001, 10**30, "x")],
    {"tickers": "AAPL"},
    {"tickers": [["AAPL"]]},
    {"tickers": [None]},
    {"unknown": 1},
]


@pytest.mark.parametrize("flow", [ingest, reconcile, facts], ids=lambda flow: flow.name)
def test_a_flow_refuses_parameters(flow: Any) -> None:
    for parameters in PARAMETERS:
        known = {name: value for name, value in parameters.items() if name in (*flow.parameters.properties, "unknown")}
        if known:
            with pytest.raises((ParameterTypeError, TypeError, ValueError)):
                flow.validate_parameters(known)


def test_a_retry_refuses_run_ids() -> None:
    for run_id in [*RUN_IDS, "Last", "00000000-0000-0000-0000-00000000000g"]:
        with pytest.raises(ParameterTypeError):
            retry_failed.validate_parameters({"run_id": run_id})


def test_a_form_refuses_them_before_a_run_exists() -> None:
    schema = preprocess_schema(ingest.parameters.model_dump())
    assert is_valid({"tickers": ["BRK.B"], "start": "2026-03-02"}, schema)
    # Python's $ lets one line end pass; the flow itself then refuses it, as the test above shows.
    for parameters in [{"tickers": [ticker]} for ticker in TICKERS] + [{"universe": name} for name in UNIVERSES]:
        assert not is_valid(parameters, schema), parameters


@pytest.mark.prefect
def test_a_hostile_market_writes_nothing_of_its_own(nights: Nights) -> None:
    said = "no\n\n# forged\n```\n<script>alert(1)</script>\x1b[2J\r\u202e| a | b |\nERROR forged"
    row = {"v": 1, "o": 2, "h": 2, "l": 2, "c": 2, "t": 1772830800000}
    hostile = ["'; DROP TABLE bar; --", "\x1b[2J\n", "<b>AAPL</b>", "AAPL"]
    rows = [{"T": ticker, **row} for ticker in hostile]
    body = {"status": "OK", "resultsCount": len(rows), "adjusted": False, "results": rows}
    split = {"ticker": hostile[0], "execution_date": "2026-03-05", "split_from": 1, "split_to": 2, "id": "E1\x00"}
    nights.setenv("MAX_RETRIES", "0")
    nights.market.faults(
        [
            {"action": "status", "status": 200, "body": body, "path": "/grouped/", "date": "2026-03-06"},
            {"action": "status", "status": 500, "body": {"error": said}, "path": "/grouped/", "date": "2026-03-05"},
            {"action": "status", "status": 200, "body": {"status": "OK", "results": [split]}, "path": "/splits"},
        ]
    )
    names = universe.load("etfs")[:19]

    told = nights.ingest(tickers=["AAPL", *names], start=date(2026, 3, 2))

    assert told["state_name"] == "PartiallyCompleted"
    with sa.create_engine(nights.database_url, poolclass=sa.NullPool).connect() as connection:
        found = connection.execute(sa.text("SELECT ticker FROM bar WHERE session = '2026-03-06'")).scalars().all()
        assert connection.execute(sa.text("SELECT count(*) FROM split")).scalar_one() == 0
        errors = connection.execute(sa.text("SELECT DISTINCT last_error FROM gap WHERE reason = 'failed'")).scalars()
        texts = list(errors)
    assert found == ["AAPL"]
    assert "<script>" in texts[0], "the vendor's words are kept, to be read"
    texts += [told["message"], *(line for message in _logged(told["run_id"]) for line in message.split("\n"))]
    for text in texts:
        assert text.isprintable(), text
        assert not text.startswith(("# forged", "ERROR forged")), text
    for markdown in _artifacts(told["run_id"]):
        assert "\x1b" not in markdown
        assert "\u202e" not in markdown
        lines = markdown.splitlines()
        assert not [line for line in lines if line.startswith(("# forged", "ERROR forged", "| a |"))]
        assert not [line for line in lines if "<script>" in line and not line.startswith("    ") and '"' not in line]
        assert sum(line.startswith("```") for line in lines) % 2 == 0


def _logged(run_id: str) -> list[str]:
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all()
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [run_id]}}))
    assert logs
    return [log.message for log in logs]


def _artifacts(run_id: str) -> list[str]:
    from prefect.client.schemas.filters import ArtifactFilter

    asked = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run_id]}})
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=asked)
    assert {artifact.key for artifact in found} >= {"plan", "report", "failed"}
    return [one.data if isinstance(one.data, str) else json.dumps(one.data) for one in found]


def test_doctor_warns_of_a_key_sent_in_the_clear(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("POLYGON_API_KEY", "canary-3fe1")
    monkeypatch.setenv("POLYGON_BASE_URL", "http://market.example:8787")
    told = command("doctor")
    assert told.exit_code == 0
    assert "warning   POLYGON_API_KEY goes to market.example over plain http" in told.output
    assert "canary" not in told.output
