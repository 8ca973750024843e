"""The image, as far as it can be held against the checkout without building it: recipe, lock, entrypoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from closingbell.settings import SECRETS
from tests.deploying.names import FROM_FILES, IMAGE, PREFECTS, ROOT, meant

RECIPE = re.sub(r"\\\n\s*", "", (IMAGE / "Containerfile").read_text())
STEPS = [line.split(maxsplit=1) for line in RECIPE.splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(lock: Path) -> dict[str, set[str]]:
    """The versions that a lock has of each package: more than one where they depend on Python's."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;]+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def of(word: str) -> list[str]:
    return [rest for step, rest in STEPS if step == word]


def copied() -> list[str]:
    """What is copied from the checkout."""
    return [source for rest in of("COPY") if not rest.startswith("--from") for source in rest.split()[:-1]]


def test_what_is_copied_is_there_and_reaches_whoever_builds() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "what is not named stays here"
    let_through = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert copied()
    for source in copied():
        assert (ROOT / source).exists()
        assert source.split("/")[0] in let_through
    assert all((ROOT / name).exists() for name in let_through)
    assert let_through <= {source.split("/")[0] for source in copied()}, "nothing else is sent"


@pytest.mark.parametrize(
    "secret", ["infra/compose/secrets", "infra/compose/.env", "infra/kubernetes/secret.yaml", ".env", ".closingbell"]
)
def test_no_secret_gets_into_a_layer(secret: str) -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    let_through = False
    for line in lines:  # the last line that fits counts
        if fnmatch(secret, line.removeprefix("!").removeprefix("**/")) or secret.startswith(
            line.removeprefix("!") + "/"
        ):
            let_through = line.startswith("!")
    assert not let_through
    ignored = subprocess.run(["git", "check-ignore", "--quiet", f"{secret}/any"], cwd=ROOT, check=False)
    assert ignored.returncode == 0, "nor into git"


def test_the_recipe() -> None:
    assert of("FROM") == ["python:${PYTHON} AS build", "python:${PYTHON}"]
    (argument,) = (rest for rest in of("ARG") if rest.startswith("PYTHON="))
    version = re.fullmatch(r"PYTHON=(\d+\.\d+\.\d+)-slim-[a-z]+", argument)
    assert version, "a version and a system by name"
    assert version[1] in SpecifierSet(PROJECT["requires-python"])
    assert f"VERSION={PROJECT['version']}" in of("ARG")
    assert not of("ADD"), "nothing is fetched past pip's hashes"
    assert of("USER") == ["10001:10001"]
    assert [step for step, _ in STEPS].index("USER") > max(n for n, (step, _) in enumerate(STEPS) if step == "RUN")
    assert of("HEALTHCHECK")
    assert of("ENTRYPOINT") == ['["/opt/closingbell/infra/image/entrypoint.sh"]']
    steps = [rest.removeprefix("infra/image/") for rest in of("RUN") if rest.startswith("infra/image/build.sh")]
    assert steps == [
        "build.sh dependencies /opt/closingbell/venv",
        "build.sh application /opt/closingbell/venv /opt/closingbell",
    ]
    named = dict(pair.split("=", 1) for pair in " ".join(of("ENV")).split())
    known = {"PATH", "HOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "DO_NOT_TRACK", "MPLCONFIGDIR"}
    assert [name for name in named if name not in known and not meant(name)] == []


def test_the_lock_of_the_image_has_the_versions_that_are_tested() -> None:
    image, tested = pinned(IMAGE / "requirements.lock"), pinned(ROOT / "requirements.lock")
    assert {name: versions for name, versions in image.items() if not versions <= tested.get(name, versions)} == {}
    lines = re.findall(r"^\S+==.+\n.*", (IMAGE / "requirements.lock").read_text(), re.MULTILINE)
    assert len(lines) == sum(map(len, image.values()))
    assert [line for line in lines if "\n    --hash=sha256:" not in line] == []
    extras = re.search(r"^IMAGE_EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert extras
    optional = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for extra in extras[1].split() for line in optional[extra])]
    wanted += [line for line in (IMAGE / "requirements.in").read_text().splitlines() if line and line[0] != "#"]
    for requirement in map(Requirement, wanted):
        assert all(version in requirement.specifier for version in image[requirement.name]), f"{requirement}: make lock"
    assert {"pytest", "mypy", "ruff", "moto", "playwright"}.isdisjoint(image), "no tools"


def entrypoint(*arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(IMAGE / "entrypoint.sh"), *arguments],
        env={"PATH": f"{path}:/usr/bin:/bin", "HOME": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs that say how they were called, and with what in their environment."""
    for name in ("closingbell", "prefect", "python"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$(basename "$0") $*"\npwd\nenv\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], ["closingbell --help"]),
        (["doctor", "--json"], ["closingbell doctor --json"]),
        (["server"], ["prefect server start"]),
        (
            ["worker", "process", "--limit", "3"],
            [
                "prefect worker start --pool closingbell --type process"
                " --install-policy never --with-healthcheck --limit 3"
            ],
        ),
        (["bootstrap"], ["python -m deployments.register"]),
        (
            ["bootstrap", "kubernetes", "--image", "there/closingbell:1"],
            ["python -m deployments.kubernetes_pool --image there/closingbell:1", "python -m deployments.register"],
        ),
        (["market", "--size", "9"], ["closingbell market --host 0.0.0.0 --port 8787 --size 9"]),
        (["prefect", "flow-run", "execute"], ["prefect flow-run execute"]),
    ],
)
def test_each_part_of_the_entrypoint(programs: Path, arguments: list[str], called: list[str]) -> None:
    done = entrypoint(*arguments, path=programs)
    assert done.returncode == 0, done.stderr
    assert [
        line for line in done.stdout.splitlines() if line.split(" ")[0] in ("closingbell", "prefect", "python")
    ] == (called)
    assert "--local" not in done.stdout, "runs of other machines are nobody's to end: deployments.dead_runs"


def test_the_server_takes_no_dead_ones_lock_for_its_own(programs: Path) -> None:
    lock = programs / "concurrency_leases" / "expirations.lock"
    lock.parent.mkdir()
    lock.touch()
    done = entrypoint("server", path=programs, PREFECT_HOME=str(programs))
    assert not lock.exists()
    assert str(ROOT) in done.stdout.splitlines(), "where prefect.toml is"


def test_secrets_come_in_files(programs: Path) -> None:
    assert {name.upper() for name in SECRETS} <= FROM_FILES
    assert {name.upper() for name in SECRETS} | PREFECTS >= FROM_FILES
    (programs / "url").write_text("postgresql://me:canary$`\"'@there/bars\n")
    (programs / "none").touch()
    files = {"DATABASE_URL_FILE": str(programs / "url"), "POLYGON_API_KEY_FILE": str(programs / "none")}
    lines = entrypoint("doctor", path=programs, **files).stdout.splitlines()
    assert "DATABASE_URL=postgresql://me:canary$`\"'@there/bars" in lines
    assert not [line for line in lines if line.startswith(("DATABASE_URL_FILE", "POLYGON_API_KEY"))]


def test_a_secret_that_cannot_be_had_is_said_and_nothing_runs(programs: Path) -> None:
    missing = entrypoint("doctor", path=programs, DATABASE_URL_FILE=str(programs / "missing"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "DATABASE_URL_FILE cannot be read" in missing.stderr
    (programs / "key").write_text("canary")
    both = entrypoint("doctor", path=programs, POLYGON_API_KEY_FILE=str(programs / "key"), POLYGON_API_KEY="other")
    assert (both.returncode, both.stdout) == (2, "")
    assert "both POLYGON_API_KEY and POLYGON_API_KEY_FILE are set" in both.stderr
    assert "canary" not in both.stderr


def test_it_answers(database_url: str, tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    told = entrypoint("--version", path=here, HOME=str(tmp_path))
    assert told.stdout == f"closingbell, version {PROJECT['version']}\n"
    (tmp_path / "url").write_text(database_url)
    environment = {"CLOSINGBELL_HOME": str(tmp_path), "DATABASE_URL_FILE": str(tmp_path / "url")}
    told = entrypoint("status", "--json", path=here, HOME=str(tmp_path), **environment)
    assert told.returncode == 0, told.stderr
    assert '"bars": 0' in told.stdout


def test_whether_a_part_is_healthy(tmp_path: Path, market_address: str) -> None:
    here = Path(sys.executable).parent
    assert entrypoint("healthy", f"{market_address}/_market/health", path=here, HOME=str(tmp_path)).returncode == 0
    ill = entrypoint("healthy", f"{market_address}/nothing", path=here, HOME=str(tmp_path))
    assert (ill.returncode, ill.stderr) == (1, f"unhealthy: {market_address}/nothing answers 401\n")
    gone = entrypoint("healthy", "1/health", path=here, HOME=str(tmp_path))
    assert (gone.returncode, gone.stderr) == (1, "unhealthy: nothing answers\n")


@pytest.fixture
def market_address(market: object) -> str:
    """The port of a market on loopback."""
    return str(market.url).rpartition(":")[2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("script", ["build.sh", "entrypoint.sh", "../compose/secrets.sh"])
def test_a_shell_can_read_it(script: str) -> None:
    path = IMAGE / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0
