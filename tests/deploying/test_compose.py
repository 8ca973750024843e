"""The compose file: valid, closed to the network, pinned; and the secrets that its script makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from jsonschema import Draft202012Validator

from closingbell.store import open_store
from tests.deploying.names import FROM_FILES, ROOT, meant

FOLDER = ROOT / "infra" / "compose"
TEXT = (FOLDER / "compose.yaml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = FILE["services"]
#: Those that run our image.
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("${CLOSINGBELL_IMAGE")}


def schema() -> Draft202012Validator:
    return Draft202012Validator(json.loads((Path(__file__).parent / "schema" / "compose-spec.json").read_text()))


def test_it_is_a_compose_file() -> None:
    assert [error.message for error in schema().iter_errors(FILE)] == []
    wrong = {**FILE, "services": {**SERVICES, "server": {**SERVICES["server"], "helthcheck": {}}}}
    assert list(schema().iter_errors(wrong)), "the schema sees a misspelt word"


def test_every_part_is_there() -> None:
    assert set(SERVICES) == {
        *("database", "prefect-database", "server", "bootstrap", "worker", "closingbell", "market", "oracle")
    }
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"closingbell": ["command"], "market": ["market"], "oracle": ["oracle"]}
    assert set(OURS) == set(SERVICES) - {"database", "prefect-database", "oracle"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_each_service_keeps_to(name: str) -> None:
    service = SERVICES[name]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "reached from this machine only"
    image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
    assert re.search(r":\d+\.\d+(\.\d+)?(-[a-z-]+)?$", image), "a version by name"
    assert service["restart"]
    for waits_for in service.get("depends_on", {}):
        assert "profiles" not in SERVICES[waits_for], "else it would not start without the profile"
    if not service.get("healthcheck", {}).get("disable") and name != "bootstrap":
        assert service["healthcheck"]["test"]
    if name != "closingbell":
        assert {"cpus", "memory"} == set(service["deploy"]["resources"]["limits"])
    for volume in service.get("volumes", []):
        assert volume.split(":")[0] in FILE["volumes"]
    assert set(service.get("secrets", [])) <= set(FILE["secrets"])


@pytest.mark.parametrize("name", OURS)
def test_what_our_own_keep_to(name: str) -> None:
    service = OURS[name]
    assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    environment = service.get("environment", {})
    assert [variable for variable in environment if not meant(variable)] == []
    for variable, value in environment.items():
        if variable.removesuffix("_FILE") in FROM_FILES:
            assert value.removeprefix("/run/secrets/") in service["secrets"]


def test_a_worker_begins_when_there_is_something_to_work_with() -> None:
    waits = {name: how["condition"] for name, how in SERVICES["worker"]["depends_on"].items()}
    assert waits == {
        "server": "service_healthy",
        "bootstrap": "service_completed_successfully",
        "database": "service_healthy",
    }
    assert SERVICES["worker"]["volumes"] == ["home:/var/lib/closingbell"], "one book of leases on one machine"


def test_what_can_be_set_is_exemplified() -> None:
    example = (FOLDER / ".env.example").read_text()
    offered = set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE))
    taken = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    assert {name for name in offered - taken if not meant(name)} == set()
    assert {name for name in taken - offered if not meant(name)} == set()
    assert not re.findall(r"^[^#\n]", example, re.MULTILINE), "copied as it is, it changes nothing"


def made(folder: Path, *arguments: str) -> dict[str, str]:
    script = str(FOLDER / "secrets.sh")
    environment = {"PATH": os.environ["PATH"], "SECRETS": str(folder)}
    subprocess.run([script, *arguments], env=environment, check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_secrets_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    found = made(folder)
    assert set(found) == {Path(entry["file"].partition("}")[2]).name for entry in FILE["secrets"].values()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert found["polygon_api_key"] == ""
    passwords = [found[name] for name in found if name.endswith("password")]
    assert len(set(passwords)) == 3
    assert all(len(password) > 30 for password in passwords)
    (folder / "polygon_api_key").write_text("a-key")
    assert made(folder, "--oracle") == {**found, "polygon_api_key": "a-key"}, "what is there stays"


@pytest.mark.parametrize(("arguments", "service"), [([], "database"), (["--oracle"], "oracle")])
def test_the_urls_open_what_is_there(tmp_path: Path, arguments: list[str], service: str) -> None:
    found = made(tmp_path / "secrets", *arguments)
    with closing(open_store(found["database_url"])) as store:
        url = store.engine.url
    assert (url.host, url.username, url.password) == (service, "closingbell", found["database_password"])
    prefect = sa.make_url(found["prefect_database_url"])
    assert (prefect.drivername, prefect.host) == ("postgresql+asyncpg", "prefect-database")
    environment = SERVICES["prefect-database"]["environment"]
    assert (prefect.username, prefect.database) == (environment["POSTGRES_USER"], environment["POSTGRES_DB"])
    assert prefect.password == found["prefect_database_password"]
