"""Kubernetes manifests: valid to the last key, and safe by the rules they are meant to keep."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_validate import ValidationError, latest_version, validate

from services.errors import BadInput, NoFeasibleCandidate
from services.queue import REDELIVER_SECONDS
from services.settings import Settings
from services.spec import parse_spec

ROOT = Path(__file__).resolve().parents[2]
Manifest = dict[str, Any]
Objects = tuple[Manifest, ...]
Render = Callable[[str], Objects]
PodSpecs = Callable[[Objects], list[tuple[str, Manifest]]]


def check(each: Manifest) -> None:
    """Strict: unknown keys are errors. The package warns about its own use of jsonschema."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        validate(each, latest_version(), strict=True)


def by_name(objects: Objects, kind: str, name: str) -> Manifest:
    """The one object of that kind and name."""
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)
    return found


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of a tree."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in pairs:
        yield str(key), each
        if isinstance(each, dict | list):
            yield from walk(each)


def test_valid_to_the_last_key(manifests: Objects) -> None:
    for each in manifests:
        check(each)
    names = [(o["kind"], o["metadata"]["name"]) for o in manifests]
    assert len(names) == len(set(names))
    for each in manifests:
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "remelt"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replicas"), "one"),
        (("spec", "replicaz"), 1),
        (("spec", "template", "spec", "containers", 0, "imagee"), "remelt:1"),
        (("spec", "template", "spec", "containers", 0, "ports"), [{"portz": 1}]),
        (("spec", "template", "spec", "containers", 0, "livenessProbe", "periodSeconds"), "1m"),
        (("spec", "template", "spec", "volumes"), {"name": "home"}),
    ],
)
def test_the_check_finds_mistakes(render: Render, path: tuple[Any, ...], value: Any) -> None:
    broken = copy.deepcopy(by_name(render("laptop"), "Deployment", "ui"))
    check(broken)
    place: Any = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        check(broken)


def test_pods_keep_the_restricted_standard(manifests: Objects, pod_specs: PodSpecs) -> None:
    assert pod_specs(manifests)
    for name, pod in pod_specs(manifests):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["terminationGracePeriodSeconds"] >= 5, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert not [v for v in pod["volumes"] if "hostPath" in v], name
        for container in pod["containers"] + pod.get("initContainers", []):
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False, name
            assert inner["readOnlyRootFilesystem"] is True, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
            assert "runAsUser" not in inner, name


def test_containers_are_bounded_probed_and_pinned(manifests: Objects, pod_specs: PodSpecs) -> None:
    for name, pod in pod_specs(manifests):
        for container in pod["containers"]:
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][bound].keys(), name
            image, _, tag = container["image"].rpartition(":")
            assert image, f"{name}: {container['image']} has no tag"
            assert tag not in ("latest", ""), name
            if not name.startswith(("Job", "CronJob")):
                assert "livenessProbe" in container, name
                if container.get("ports"):
                    assert {"readinessProbe", "startupProbe"} <= container.keys(), name
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], f"{name}: {volume['name']}"


def test_worker_probes_ask_for_this_very_pod(render: Render, pod_specs: PodSpecs) -> None:
    pods = dict(pod_specs(render("laptop")))
    for kind in ("control", "evaluate"):
        probe = pods[f"Deployment/{kind}"]["containers"][0]["livenessProbe"]
        assert probe["exec"]["command"] == ["remelt", "worker", "ping", kind]
        # a ping collects answers for five seconds; a broker may be away for minutes
        assert probe["timeoutSeconds"] > 10
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_everything_named_is_there(manifests: Objects, pod_specs: PodSpecs) -> None:
    names = {(o["kind"], o["metadata"]["name"]) for o in manifests}
    # study/ is applied beside an overlay and uses its account
    names.add(("ServiceAccount", "remelt"))
    for name, pod in pod_specs(manifests):
        assert ("ServiceAccount", pod["serviceAccountName"]) in names, name
        volumes = {v["name"] for v in pod["volumes"]}
        (owner,) = (o for o in manifests if f"{o['kind']}/{o['metadata']['name']}" == name)
        volumes |= {c["metadata"]["name"] for c in owner["spec"].get("volumeClaimTemplates", [])}
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= volumes, name
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in names, name
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names, name
    for each in manifests:
        if each["kind"] in ("ServiceAccount",):
            assert each["automountServiceAccountToken"] is False


def test_selectors_meet_their_pods(manifests: Objects) -> None:
    pods = [
        o["spec"]["template"]["metadata"]["labels"]
        for o in manifests
        if o["kind"] in ("Deployment", "StatefulSet")
    ]
    for each in manifests:
        if each["kind"] == "Service":
            wanted = each["spec"]["selector"]
        elif each["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            wanted = each["spec"]["selector"]["matchLabels"]
        else:
            continue
        hits = [labels for labels in pods if wanted.items() <= labels.items()]
        assert len(hits) == 1, f"{each['kind']}/{each['metadata']['name']}"


def test_network_is_closed_but_for_what_is_listed(render: Render) -> None:
    for folder in ("laptop", "production"):
        objects = render(folder)
        closed = by_name(objects, "NetworkPolicy", "deny-all")["spec"]
        assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        for each in objects:
            if each["kind"] == "StatefulSet":
                labels = each["spec"]["template"]["metadata"]["labels"]
                assert labels["app.kubernetes.io/part-of"] == "remelt-servers"
                name = each["spec"]["serviceName"]
                policy = by_name(objects, "NetworkPolicy", f"to-{name}")["spec"]
                assert policy["podSelector"]["matchLabels"].items() <= labels.items()
                (port,) = by_name(objects, "Service", name)["spec"]["ports"]
                assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["port"]}]


def test_secrets_are_files(manifests: Objects, pod_specs: PodSpecs) -> None:
    assert not [o for o in manifests if o["kind"] == "Secret"], "no secret lies in the repository"
    for key, value in walk(list(manifests)):
        assert key not in ("secretKeyRef", "secretRef"), "a secret in the environment"
        if key == "data":
            assert "password" not in str(value).lower()
    for name, pod in pod_specs(manifests):
        mounted = {m["mountPath"]: m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        for volume in pod["volumes"]:
            if volume.get("secret", {}).get("secretName") != "remelt-secrets":
                continue
            assert mounted["/run/secrets/remelt"] == volume["name"], name
            assert volume["secret"]["defaultMode"] == 0o440, name
            for item in volume["secret"].get("items", []):
                assert item["key"] == item["path"]
                assert item["key"].removeprefix("remelt_") in Settings.model_fields, name


def test_only_who_publishes_has_the_store_keys(render: Render, pod_specs: PodSpecs) -> None:
    for name, pod in pod_specs(render("production") + render("study")):
        for volume in pod["volumes"]:
            secret = volume.get("secret", {})
            if secret.get("secretName") == "remelt-secrets" and "evaluate" not in name:
                assert "s3" not in str(secret["items"]), name


def test_settings_exist(manifests: Objects) -> None:
    known = {f"REMELT_{field.upper()}" for field in Settings.model_fields} | {"REMELT_SECRETS_DIR"}
    found = set()
    for key, value in walk(list(manifests)):
        found |= {name for name in (key, value) if str(name).startswith("REMELT_")}
    assert found
    assert found <= known


def test_gpu_workers_start_from_zero(render: Render, pod_specs: PodSpecs) -> None:
    objects = render("production")
    assert by_name(objects, "Deployment", "evaluate")["spec"]["replicas"] == 0
    (container,) = dict(pod_specs(objects))["Deployment/evaluate"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-cuda")
    assert {"name": "REMELT_ENGINE_DEVICE", "value": "cuda"} in container["env"]
    laptop = dict(pod_specs(render("laptop")))["Deployment/evaluate"]
    assert "nvidia.com/gpu" not in str(laptop)


def test_studies_are_not_tried_again_in_vain(render: Render) -> None:
    objects = render("study")
    cron = by_name(objects, "CronJob", "study-nightly")["spec"]
    job = by_name(objects, "Job", "study")["spec"]
    for spec in (job, cron["jobTemplate"]["spec"]):
        fail, ignore = spec["podFailurePolicy"]["rules"]
        codes = sorted([BadInput.exit_code, NoFeasibleCandidate.exit_code])
        assert fail["action"] == "FailJob"
        assert fail["onExitCodes"]["values"] == codes
        assert ignore["action"] == "Ignore"
        pod = spec["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert fail["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
        # one key for all pods of a Job, another for every other Job
        assert pod["containers"][0]["command"][-1] == "$(JOB_NAME)-$(JOB_UID)"
        paths = [e["valueFrom"]["fieldRef"]["fieldPath"] for e in pod["containers"][0]["env"][:2]]
        assert paths == [
            "metadata.labels['batch.kubernetes.io/job-name']",
            "metadata.labels['batch.kubernetes.io/controller-uid']",
        ]
    assert cron["suspend"] is True
    assert cron["concurrencyPolicy"] == "Forbid"


def test_job_and_cronjob_run_the_same_pod(render: Render) -> None:
    objects = render("study")
    cron = by_name(objects, "CronJob", "study-nightly")["spec"]["jobTemplate"]["spec"]
    assert cron == by_name(objects, "Job", "study")["spec"]


def test_the_study_parses(render: Render) -> None:
    (config,) = (o for o in render("study") if o["kind"] == "ConfigMap")
    (text,) = config["data"].values()
    spec = parse_spec(text, where="study.yaml")
    assert spec.budget.wall_minutes is not None
    deadline = by_name(render("study"), "Job", "study")["spec"]["activeDeadlineSeconds"]
    assert spec.budget.wall_minutes * 60 < deadline


def test_broker_holds_messages_as_long_as_the_queues_ask() -> None:
    text = (ROOT / "k8s/components/rabbitmq/remelt.conf").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    options = dict(line.split(" = ") for line in lines)
    assert int(options["consumer_timeout"]) == REDELIVER_SECONDS * 2000
    assert options["default_queue_type"] == "quorum"
