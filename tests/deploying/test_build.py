"""The image's steps on a clean environment, and what comes of them: server, bootstrap, worker and a run, as in compose.

No container is needed: the steps are a script, and the parts are processes that see nothing of this checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from deployments.prefect_server import healthy
from infra.process import Child
from tests.deploying.names import IMAGE, ROOT
from tests.deploying.test_image import PROJECT, copied, pinned

pytestmark = [pytest.mark.soak, pytest.mark.prefect, pytest.mark.timeout(1800)]

#: Seconds that any one step may take, on a slow machine too.
PATIENCE = 900

#: What prefect-kubernetes makes of the work pool's template; printed as JSON.
RENDER = """
import asyncio, json, uuid
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from deployments.kubernetes_pool import template

async def main():
    made = await KubernetesWorkerJobConfiguration.from_template_and_values(
        template(image="there/closingbell:1", namespace="bars"), {"memory_limit": "8Gi", "env": {"BATCH_SIZE": "10"}}
    )
    made.prepare_for_flow_run(FlowRun(flow_id=uuid.uuid4(), name="quick-fox"))
    return made.job_manifest

print(json.dumps([asyncio.run(main()), sorted(KubernetesSettings().observer.namespaces)]))
"""

LISTED = """
import json
from importlib.metadata import distributions
print(json.dumps({d.name.lower().replace("_", "-").replace(".", "-"): d.version for d in distributions()}))
"""

#: Starts a run of the manual deployment and waits for its end; prints its state.
RUN = """
from prefect.deployments import run_deployment
run = run_deployment("ingest/manual", parameters={"tickers": ["AAPL", "MSFT"], "start": "2026-03-02"}, timeout=600)
print(run.state.name)
"""


class Built:
    """An environment that the image's steps made, and what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.app, self.venv, self.home = folder / "closingbell", folder / "venv", folder / "home"
        self.home.mkdir()
        self.environment = {
            "PATH": f"{self.venv / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.home),
            "CLOSINGBELL_HOME": str(self.home),
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.home / "ui"),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    @property
    def entrypoint(self) -> str:
        return str(self.app / "infra" / "image" / "entrypoint.sh")

    def said(self, *arguments: str, **environment: str) -> str:
        """What the entrypoint prints; it has to end well."""
        done = subprocess.run(
            [self.entrypoint, *arguments],
            env=self.environment | environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def part(self, *arguments: str, **environment: str) -> Child:
        """A part that goes on until the end of the block."""
        command = [self.entrypoint, *arguments]
        log = self.home / f"{arguments[0]}.log"
        return Child(arguments[0], command, log, env=self.environment | environment, cwd=self.home)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """What the image's steps make of nothing but the files that the recipe copies."""
    made = Built(tmp_path_factory.mktemp("image"))
    for source in copied():
        target = made.app / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / source, target)
    script = str(made.app / "infra" / "image" / "build.sh")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "PYTHON", "VIRTUAL"))}
    for step in (["dependencies", str(made.venv)], ["application", str(made.venv), str(made.app)]):
        environment = clean | {"PYTHON": sys.executable}
        subprocess.run([script, *step], env=environment, check=True, timeout=PATIENCE, capture_output=True)
    return made


def test_the_environment_is_what_the_lock_says(built: Built) -> None:
    assert built.said("--version") == f"closingbell, version {PROJECT['version']}\n"
    listed = json.loads(built.said("python", "-c", LISTED))
    assert listed.pop("closingbell") == PROJECT["version"]
    locked = pinned(IMAGE / "requirements.lock")
    assert {name: version for name, version in listed.items() if version not in locked.get(name, ())} == {}
    assert {"pip", "setuptools", "pytest"}.isdisjoint(listed)
    assert built.said("prefect", "--version").strip() in locked["prefect"]
    where = built.said("python", "-c", "import flows.ingest; print(flows.ingest.__file__)")
    assert where.startswith(str(built.app)), "nothing of the checkout that the tests run in"


def test_the_kubernetes_worker_takes_the_template(built: Built) -> None:
    import kubernetes_validate

    environment = {
        "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": "bars",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",  # which nobody is asked at
    }
    manifest, namespaces = json.loads(built.said("python", "-c", RENDER, **environment))
    assert namespaces == ["bars"], "the worker's manifest names the namespace that it may look at"
    assert manifest["metadata"]["namespace"] == "bars"
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["args"]) == ("there/closingbell:1", ["prefect", "flow-run", "execute"])
    assert {"name": "BATCH_SIZE", "value": "10"} in container["env"]
    assert [of["secretRef"]["name"] for of in container["envFrom"] if "secretRef" in of] == ["closingbell-secrets"]
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def prefect_database(postgres: sa.URL) -> Iterator[str]:
    """The URL of an empty database for a Prefect server."""
    name = f"prefect_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    yield postgres.set(drivername="postgresql+asyncpg", database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))


def test_server_bootstrap_worker_and_a_run(built: Built, bare_url: str, prefect_database: str) -> None:
    """The order of compose.yaml, with the secrets in files; without a key, the run brings its own market."""
    port, health = free_port(), free_port()
    for name, url in (("database_url", bare_url), ("prefect_database_url", prefect_database)):
        (built.home / name).write_text(url)
    there = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "MARKET_SIZE": "50"}
    there["DATABASE_URL_FILE"] = str(built.home / "database_url")
    server = built.part(
        "server",
        PREFECT_SERVER_API_HOST="127.0.0.1",
        PREFECT_SERVER_API_PORT=str(port),
        PREFECT_SERVER_DATABASE_CONNECTION_URL_FILE=str(built.home / "prefect_database_url"),
    )
    worker = built.part("worker", "process", **there, PREFECT_WORKER_WEBSERVER_PORT=str(health))
    with server:
        server.wait_ready(lambda: healthy(there["PREFECT_API_URL"]), PATIENCE)
        built.said("healthy", f"{port}/api/health")
        for expected in ("created", "there already"):
            told = built.said("bootstrap", **there)
            assert f"work pool closingbell: {expected}" in told
        assert "All deployments" in told or "successfully created" in told
        with worker:
            worker.wait_ready(lambda: worker.said("started!"), PATIENCE)
            built.said("healthy", f"{health}/health")
            assert built.said("python", "-c", RUN, **there).splitlines()[-1] == "Completed"
    shown = json.loads(built.said("status", "--json", DATABASE_URL_FILE=there["DATABASE_URL_FILE"]))
    assert shown["tickers"] == 2
    assert shown["bars"] > 100
