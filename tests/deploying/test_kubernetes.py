"""The manifests: valid in strict mode, unprivileged, pinned; the work pool's template on a real Prefect server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.utilities.templating import find_placeholders
from prefect.workers.base import BaseJobConfiguration
from pydantic import Field

from closingbell.errors import ConfigurationError
from deployments import dead_runs, kubernetes_pool
from deployments.bootstrap import POOL
from tests.deploying.names import ROOT, meant

FOLDER = ROOT / "infra" / "kubernetes"
#: The newest version whose schemas are installed.
NEWEST = kubernetes_validate.latest_version()
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def documents(*names: str) -> list[dict[str, Any]]:
    return [document for name in names for document in yaml.safe_load_all((FOLDER / name).read_text()) if document]


MANIFESTS = documents(*KUSTOMIZATION["resources"])
ALL = [*MANIFESTS, *documents("secret.example.yaml")]


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in MANIFESTS:
        if document["kind"] in ("Deployment", "Job"):
            yield named(document), document["spec"]["template"]["spec"]
    yield "the template", job()["spec"]["template"]["spec"]


def job(**values: Any) -> dict[str, Any]:
    """The job of a run, as the template makes it with its defaults and these values."""

    class Configuration(BaseJobConfiguration):
        job_manifest: dict[str, Any] = Field(default_factory=dict)

    template = kubernetes_pool.template()
    defaults = {name: of.get("default") for name, of in template["variables"]["properties"].items()}
    made = Configuration.model_validate(
        _filled(template["job_configuration"], {**defaults, "env": {}, "labels": {}, "annotations": {}, **values})
    )
    manifest: dict[str, Any] = made.job_manifest
    # What the worker puts in: prefect_kubernetes.worker, prepare_for_flow_run.
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": name, "value": value} for name, value in made.env.items()]
    container["args"] = ["prefect", "flow-run", "execute"]
    manifest["metadata"]["generateName"] = "quick-fox-"
    return manifest


def _filled(template: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    from prefect.utilities.templating import apply_values

    filled: dict[str, Any] = apply_values(template, values)
    return filled


@pytest.mark.parametrize("document", ALL, ids=named)
def test_each_manifest_is_valid(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, NEWEST, strict=True)


def test_a_misspelt_word_is_seen() -> None:
    wrong = json.loads(json.dumps(next(document for document in MANIFESTS if document["kind"] == "Deployment")))
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


def test_the_job_of_a_run_is_valid() -> None:
    manifest = job(memory_limit="8Gi", env={"BATCH_SIZE": "10"})
    pod = manifest["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    # Prefect wants them here and nowhere else; a cluster passes over them.
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    kubernetes_validate.validate(manifest, NEWEST, strict=True)


@pytest.mark.parametrize(("name", "pod"), pods())
def test_no_pod_has_a_privilege(name: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001, "of the image"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/closingbell", "/tmp"}  # noqa: S108
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for bounds in ("requests", "limits"):
        assert set(container["resources"][bounds]) == {"cpu", "memory"}
    if name != "Deployment/closingbell-worker":
        assert pod["automountServiceAccountToken"] is False, "only the worker has business with the cluster"


@pytest.mark.parametrize(("name", "pod"), pods())
def test_what_a_pod_refers_to_is_there(name: str, pod: dict[str, Any]) -> None:
    there = {named(document) for document in ALL}
    (container,) = pod["containers"]
    for source in container.get("envFrom", []):
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            assert field not in source or f"{kind}/{source[field]['name']}" in there
    if account := pod.get("serviceAccountName"):
        assert f"ServiceAccount/{account}" in there
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in there
    own = {"IMAGE", "NAMESPACE"}  # of the bootstrap's arguments
    assert [of["name"] for of in container.get("env", []) if of["name"] not in own and not meant(of["name"])] == []


def test_settings_and_secrets_have_names_that_mean_something() -> None:
    for document in ALL:
        names = {**document.get("data", {}), **document.get("stringData", {})}
        assert [name for name in names if not meant(name)] == []


def test_a_service_and_the_policies_find_their_pods() -> None:
    labels = [
        document["spec"]["template"]["metadata"]["labels"] for document in MANIFESTS if document["kind"] == "Deployment"
    ]
    for document in MANIFESTS:
        selector = (
            document["spec"].get("selector") or document["spec"].get("podSelector") if "spec" in document else None
        )
        if selector and document["kind"] in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= of.items() for of in labels), named(document)


def test_a_worker_may_do_what_it_has_to_and_in_its_namespace_only() -> None:
    assert not [named(document) for document in MANIFESTS if document["kind"].startswith("Cluster")]
    (role,) = (document for document in MANIFESTS if document["kind"] == "Role")
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {("batch", "jobs", verb) for verb in ("create", "delete", "get", "list", "watch")} <= allowed
    assert {("", name, "list") for name in ("pods", "pods/log", "events")} <= allowed
    assert not [rule for rule in allowed if "secret" in rule[1] or "*" in rule]


def test_the_image_is_one_and_pinned() -> None:
    (image,) = KUSTOMIZATION["images"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", image["newTag"])
    assert {pod["containers"][0]["image"] for _, pod in pods()} == {f"{image['name']}:{image['newTag']}"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, though no cluster")
def test_kustomize_gives_every_pod_the_same_image() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True)
    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    for document in built:
        kubernetes_validate.validate(document, NEWEST, strict=True)
    images = set(re.findall(r"image: (\S+)", done.stdout))
    assert images == {"registry.example/closingbell:0.1.0"}
    (bootstrap,) = (document for document in built if document["kind"] == "Job")
    environment = bootstrap["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "IMAGE", "value": images.pop()} in environment, "and of the runs"
    assert {document["metadata"].get("namespace") for document in built if document["kind"] != "Namespace"} == {
        "closingbell"
    }


def test_each_variable_of_the_template_is_used_and_told() -> None:
    template = kubernetes_pool.template()
    variables = template["variables"]["properties"]
    placeholders = {found.name for found in find_placeholders(template["job_configuration"])}
    assert placeholders == set(variables)
    Draft202012Validator.check_schema(template["variables"])
    for name, of in variables.items():
        assert of["title"], name
        assert of["description"].endswith((".", "them.")), name
    assert variables["pod_watch_timeout_seconds"]["maximum"] < 900, "deployments.automations.SILENCE"


@pytest.mark.prefect
def test_the_work_pool_is_made_and_follows_the_file(prefect_api: str) -> None:
    name = f"kubernetes-{uuid.uuid4().hex[:8]}"
    first = kubernetes_pool.template(image="there/closingbell:1", namespace="bars")
    with get_client(sync_client=True) as client:
        assert kubernetes_pool.ensure(client, first, name).endswith("created, of type kubernetes")
        assert kubernetes_pool.ensure(client, first, name).endswith("there already")
        assert client.read_work_pool(name).base_job_template == first
        second = kubernetes_pool.template(image="there/closingbell:2")
        assert "its template is that of" in kubernetes_pool.ensure(client, second, name)
        found = client.read_work_pool(name)
        assert (found.type, found.base_job_template) == ("kubernetes", second)
        assert found.base_job_template["variables"]["properties"]["namespace"]["default"] == "closingbell"


@pytest.mark.prefect
def test_a_pool_of_another_type_is_left_alone(prefect_api: str) -> None:
    name = f"process-{uuid.uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        before = client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        with pytest.raises(ConfigurationError, match="of another type"):
            kubernetes_pool.ensure(client, kubernetes_pool.template(), name)
        assert client.read_work_pool(name).updated == before.updated


def test_a_run_in_a_cluster_is_never_taken_for_dead_here() -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Running

    elsewhere = FlowRun(flow_id=uuid.uuid4(), state=Running(), infrastructure_pid=f"cluster-uid:closingbell:{POOL}-x7")
    assert not dead_runs.gone(elsewhere, frozenset())
