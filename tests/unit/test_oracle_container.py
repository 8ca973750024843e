"""``make test-oracle`` as far as it goes without Docker: what it asks of Docker, the URL that it makes, its end."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from closingbell.store import open_store

SCRIPT = Path(__file__).parents[2] / "infra" / "oracle" / "test.sh"

DOCKER = """#!/bin/sh
printf '%s\\n' "$*" >>"$ASKED"
case "$1" in
  logs) echo "$LOGS" ;;
  port) echo 127.0.0.1:49153 ;;
  inspect) echo "$RUNNING" ;;
  run) printf '%s' "$APP_USER_PASSWORD" >"$ASKED.password" ;;
esac
"""

PYTHON = """#!/bin/sh
printf '%s' "$CLOSINGBELL_TEST_ORACLE_URL" >"$ASKED.url"
printf '%s' "$*" >"$ASKED.arguments"
exit 3
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a Docker that does nothing writes down what it is asked."""
    for name, text in (("docker", DOCKER), ("python", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("LOGS", "DATABASE IS READY TO USE!")
    monkeypatch.setenv("RUNNING", "true")
    return tmp_path / "asked"


def run(asked: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), str(asked.parent / "python"), "-x"]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def test_the_tests_get_a_url_that_opens_and_their_exit_code_counts(asked: Path) -> None:
    ended = run(asked)
    assert ended.returncode == 3, ended.stderr
    with closing(open_store(asked.with_suffix(".url").read_text())) as store:
        url = store.engine.url
    password = asked.with_suffix(".password").read_text()
    assert (url.username, url.password, url.host, url.port) == ("closingbell", password, "127.0.0.1", 49153)
    assert asked.with_suffix(".arguments").read_text() == "-m pytest tests/store -m oracle -x"
    assert password not in asked.read_text() + ended.stdout + ended.stderr
    assert asked.read_text().splitlines()[-1].startswith("rm --force --volumes closingbell-oracle-")


@pytest.mark.parametrize("variables", [{"RUNNING": "false"}, {"ORACLE_PATIENCE": "0"}])
def test_an_oracle_that_does_not_start_is_said_and_removed(asked: Path, variables: dict[str, str]) -> None:
    ended = run(asked, LOGS="ORA-00000: not yet", **variables)
    assert ended.returncode == 1
    assert "ORA-00000" in ended.stderr
    assert not asked.with_suffix(".url").exists()
    assert asked.read_text().splitlines()[-1].startswith("rm ")


def test_without_docker_it_says_what_to_do(asked: Path) -> None:
    (asked.parent / "docker").write_text("#!/bin/sh\nexit 1\n")
    ended = run(asked)
    assert ended.returncode == 1
    assert "CLOSINGBELL_TEST_ORACLE_URL" in ended.stderr
    assert not asked.with_suffix(".url").exists()


def test_a_shell_can_read_it() -> None:
    checker = shutil.which("shellcheck")
    command = [checker, str(SCRIPT)] if checker else ["sh", "-n", str(SCRIPT)]
    assert subprocess.run(command, check=False).returncode == 0
