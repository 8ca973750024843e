"""The local stack as people use it: `up` in a process of its own, looked at from outside, interrupted, killed."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client

from closingbell.settings import load
from deployments import automations, dead_runs
from deployments.prefect_server import prefect_environment
from infra import embedded, standing

pytestmark = pytest.mark.prefect

ProcessesOf = Callable[[Path], list[str]]
Eventually = Callable[..., None]

SECRET = "databento-key-that-nobody-may-see"

SLEEPER = """
import time
from prefect import flow

@flow
def sleeper():
    time.sleep(600)
"""

#: A server of its own, three nights that were missed on it, and one late run that a person asked for.
IN_A_TERMINAL = """
import json, os
import psycopg2
from closingbell.settings import load
from deployments.local import joined_or_started
from infra.postgres import running

told = {}
with joined_or_started(load()), running(load().closingbell_home) as postgres:
    from prefect.client.orchestration import get_client
    from deployments.register import drop_overdue_runs

    with get_client(sync_client=True) as client:
        told["limit"] = client.read_global_concurrency_limit_by_name("polygon-stocks-calls-per-second").limit
        flow = client.create_flow_from_name("night")
        night = client.create_deployment(flow, "night", work_pool_name="closingbell", entrypoint="none.at:all")
        names = ["one", "two", "three", "a person's own"]
        runs = [client.create_flow_run_from_deployment(night, name=name) for name in names]
        connection = psycopg2.connect(postgres.url("prefect", driver="postgresql"))
        with connection, connection.cursor() as cursor:
            for days, run in enumerate(runs, 1):
                cursor.execute(
                    "update flow_run set auto_scheduled = %s, expected_start_time = now() - %s * interval '1 day'"
                    " where id = %s",
                    (run.name != names[3], days, str(run.id)),
                )
        connection.close()
        told["dropped"] = drop_overdue_runs(client, keep_latest=True)
        told["dropped of the rest"] = drop_overdue_runs(client, keep_latest=False)
        told["left"] = [run.name for run in client.read_flow_runs()]
told["afterwards"] = os.environ.get("PREFECT_API_URL")
print(json.dumps(told))
"""


def up(home: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "POLYGON_"))}
    environment |= {"CLOSINGBELL_HOME": str(home), "MARKET_SIZE": "50", "DATABENTO_API_KEY": SECRET}
    return subprocess.Popen(
        [sys.executable, "-m", "closingbell.cli", "up"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until_up(home: Path, process: subprocess.Popen[str], eventually: Eventually) -> standing.Standing:
    eventually(lambda: standing.read(home) or process.poll() is not None, 120)
    if not (there := standing.read(home)):
        process.kill()
        pytest.fail(f"the stack ended:\n{process.communicate()[0]}")
    return there


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, eventually: Eventually, processes_of: ProcessesOf
) -> Iterator[tuple[Path, subprocess.Popen[str], standing.Standing]]:
    home = tmp_path_factory.mktemp("stack")
    process = up(home)
    yield home, process, wait_until_up(home, process, eventually)
    process.kill()
    process.wait()
    eventually(lambda: not processes_of(home), 60)


Running = tuple[Path, "subprocess.Popen[str]", standing.Standing]


def post(there: standing.Standing, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{there.prefect_api_url}{path}", json=body, timeout=30)
    assert answer.is_success, answer.text
    return answer.json()


def test_the_deployments_the_limit_and_a_scheduled_night_are_there(stack: Running, eventually: Eventually) -> None:
    _, _, there = stack
    found = {deployment["name"]: deployment for deployment in post(there, "/deployments/filter", {})}
    assert found.keys() >= {"nightly", "manual", "retry"}
    assert all(deployment["work_pool_name"] == "closingbell" for deployment in found.values())
    assert all(deployment["description"] for deployment in found.values())
    limits = {limit["name"]: limit for limit in post(there, "/v2/concurrency_limits/filter", {})}
    limit = limits["polygon-stocks-calls-per-second"]
    assert (limit["limit"], limit["active"], limit["slot_decay_per_second"]) == (100, True, 0)
    nights = {"deployments": {"id": {"any_": [found["nightly"]["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    eventually(lambda: post(there, "/flow_runs/filter", nights), 30)
    night = post(there, "/flow_runs/filter", nights)[0]
    assert night["state_type"] == "SCHEDULED"


def test_it_says_where_it_is_as_the_page_of_commands_shows(stack: Running, eventually: Eventually) -> None:
    _, process, _ = stack
    assert process.stdout
    reading, said = process.stdout.fileno(), bytearray()

    def has_said_all() -> bool:
        if select.select([reading], [], [], 0)[0]:
            said.extend(os.read(reading, 65_536))
        return b"Ctrl-C" in said

    eventually(has_said_all, 60)
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    shown = page.partition("$ closingbell up\n")[2].partition("```")[0].splitlines()
    ports = re.compile(r":\d+")
    lines = said.decode().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("Prefect UI"))  # root is told something before
    assert [ports.sub(":PORT", line) for line in lines[first : first + len(shown)]] == [
        ports.sub(":PORT", line) for line in shown
    ]


def test_it_is_announced_to_this_user_only_and_holds_no_secret(stack: Running, processes_of: ProcessesOf) -> None:
    home, _, there = stack
    announced = home / "stack.json"
    assert announced.stat().st_mode & 0o077 == 0
    password = (home / "postgres" / "closingbell.password").read_text().strip()
    shown = announced.read_text() + " ".join(processes_of(home))
    shown += "".join(log.read_text(errors="replace") for log in (home / "logs").glob("*.log"))
    assert password not in shown
    assert SECRET not in shown
    for url in (there.prefect_api_url, there.market_url):
        assert url
        assert url.startswith("http://127.0.0.1:")


def test_another_process_of_the_home_joins_its_parts(stack: Running) -> None:
    home, _, there = stack
    settings = load(closingbell_home=home, market_size=50, database_url=None, polygon_api_key=None)
    with embedded.provide(settings) as provided:
        assert provided.polygon_base_url == there.market_url
    with embedded.provide(settings.model_copy(update={"market_seed": 7})) as other:
        assert other.polygon_base_url != there.market_url, "a market that serves other bars is not the one asked for"


def test_a_flow_in_a_terminal_joins_its_server(stack: Running) -> None:
    home, _, there = stack
    script = (
        "import os\nfrom closingbell.settings import load\nfrom deployments.local import joined_or_started\n"
        f"with joined_or_started(load(closingbell_home={str(home)!r})) as environment:\n"
        "    print(os.environ['PREFECT_API_URL'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == there.prefect_api_url


@pytest.mark.soak
def test_a_flow_in_a_terminal_gets_a_server_of_its_own_where_none_is(tmp_path: Path, processes_of: ProcessesOf) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "POLYGON_"))}
    environment["CLOSINGBELL_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_TERMINAL], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["limit"] == 100
    assert (told["dropped"], told["dropped of the rest"]) == (2, 1), "one night makes up for three"
    assert told["left"] == ["a person's own"]
    assert told["afterwards"] is None
    assert processes_of(tmp_path) == []


def test_a_second_one_at_the_same_home_is_refused_in_one_screen(stack: Running) -> None:
    home, _, _ = stack
    second = up(home)
    said, _ = second.communicate(timeout=30)
    assert second.returncode == 2
    assert "is running here already" in said
    assert "Traceback" not in said


def test_bootstrapping_again_keeps_what_a_person_changed(stack: Running) -> None:
    _, _, there = stack
    url = f"{there.prefect_api_url}/v2/concurrency_limits/polygon-stocks-calls-per-second"
    httpx.patch(url, json={"limit": 7, "active": False}, timeout=30).raise_for_status()
    done = subprocess.run(
        [sys.executable, "-m", "deployments.bootstrap"],
        env={**os.environ, "PREFECT_API_URL": there.prefect_api_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "someone set its limit to 7, the setting says 100" in done.stdout
    assert "it is inactive" in done.stdout
    limit = httpx.get(url, timeout=30).json()
    assert (limit["limit"], limit["active"]) == (7, False)
    httpx.patch(url, json={"limit": 100, "active": True}, timeout=30).raise_for_status()


def sleeping(there: standing.Standing, folder: Path) -> str:
    """The id of a deployment of a flow that only sleeps, of which one run at a time may run."""
    (folder / "sleeper.py").write_text(SLEEPER)
    flow = post(there, "/flows/", {"name": "sleeper"})
    deployment = {
        "name": folder.name,
        "flow_id": flow["id"],
        "work_pool_name": "closingbell",
        "entrypoint": f"{folder}/sleeper.py:sleeper",
        "path": str(folder),
        "concurrency_limit": 1,
    }
    return str(post(there, "/deployments/", deployment)["id"])


def begin(there: standing.Standing, deployment: str) -> str:
    """Ask for a run of it; its id."""
    return str(post(there, f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"])


def state(there: standing.Standing, run: str) -> str:
    """The type of a run's state; nothing while the server is away, or too busy to say."""
    try:
        answer = httpx.get(f"{there.prefect_api_url}/flow_runs/{run}", timeout=30)
    except httpx.TransportError:
        return ""
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ""
    return str(answer.raise_for_status().json()["state_type"])


def test_what_dies_together_comes_back_and_a_dead_run_keeps_no_slot(
    stack: Running, tmp_path: Path, processes_of: ProcessesOf, eventually: Eventually
) -> None:
    home, process, there = stack
    deployment = sleeping(there, tmp_path)
    run = begin(there, deployment)
    eventually(lambda: state(there, run) == "RUNNING", 60)
    kinds = ("prefect.engine", "prefect worker start", "prefect server start", "infra.market", "postgres -D")
    for line in processes_of(home):
        if any(kind in line for kind in kinds) and "leash.py" not in line:
            os.kill(int(line.split()[0]), signal.SIGKILL)
    eventually(lambda: state(there, run) == "CRASHED", 120)
    another = begin(there, deployment)
    eventually(lambda: state(there, another) == "RUNNING", 60)
    assert process.poll() is None
    assert there.market_url
    assert httpx.get(f"{there.market_url}/_market/health", timeout=30).json()["ready"]
    post(there, f"/flow_runs/{another}/set_state", {"state": {"type": "CANCELLING"}})


def test_a_run_that_a_dying_worker_took_is_scheduled_again(
    stack: Running, tmp_path: Path, eventually: Eventually
) -> None:
    _, _, there = stack
    body = {"state": {"type": "PENDING"}}
    run = post(there, f"/deployments/{sleeping(there, tmp_path)}/create_flow_run", body)["id"]
    with prefect_environment({"PREFECT_API_URL": there.prefect_api_url}), get_client(sync_client=True) as client:
        assert dead_runs.put_back(client, timedelta(hours=1)) == 0, "a living worker may be about to begin it"
        assert dead_runs.put_back(client, timedelta(0)) == 1
        eventually(lambda: state(there, run) == "RUNNING", 60)
        assert dead_runs.put_back(client, timedelta(0)) == 0, "it lives"
        dead_runs.bury_gone(client)  # which may find others that are being cancelled
        assert state(there, run) == "RUNNING", "it lives"
    post(there, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})


def test_the_server_itself_ends_runs_that_died_unseen(stack: Running) -> None:
    _, _, there = stack
    with prefect_environment({"PREFECT_API_URL": there.prefect_api_url}), get_client(sync_client=True) as client:
        assert automations.ensure(client).endswith("there already"), "once is enough"
        (found,) = client.read_automations_by_name(automations.NAME)
    assert found.enabled
    assert found.actions[0].type == "change-flow-run-state"
    deployments = post(there, "/deployments/filter", {})
    ours = [each for each in deployments if each["entrypoint"].startswith(("flows.", "deployments."))]
    assert all(automations.TAG in each["tags"] for each in ours), "only these it ends"


def test_a_kill_leaves_no_orphan_and_the_next_start_recovers(
    stack: Running, tmp_path: Path, processes_of: ProcessesOf, eventually: Eventually
) -> None:
    home, process, there = stack
    run = begin(there, sleeping(there, tmp_path))
    eventually(lambda: state(there, run) == "RUNNING", 60)
    process.kill()
    process.communicate()
    eventually(lambda: not processes_of(home), 60)
    assert (home / "stack.json").exists(), "a stale announcement, to be ignored"
    assert standing.read(home) is None

    again = up(home)
    try:
        there = wait_until_up(home, again, eventually)
        eventually(lambda: state(there, run) != "", 30)
        assert state(there, run) == "CRASHED", "nothing else would ever end it"
        again.send_signal(signal.SIGINT)
        said, _ = again.communicate(timeout=60)
        assert again.returncode == 0, said
        assert processes_of(home) == []
        assert not (home / "stack.json").exists()
        assert "Traceback" not in said
    finally:
        again.kill()
        again.wait()


def test_the_announcement_of_a_killed_stack_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "stack.lock").touch()
    (tmp_path / "stack.json").write_text(json.dumps({"pid": 1, "prefect_api_url": "http://127.0.0.1:1/api"}))
    assert standing.read(tmp_path) is None
    with standing.claim(tmp_path):
        assert not (tmp_path / "stack.json").exists()
