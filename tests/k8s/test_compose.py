"""The compose file: valid by the specification's schema, safe, and the same stack as k8s/."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator

from services.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
Manifest = dict[str, Any]
SERVERS = {"postgres", "rabbitmq", "s3"}


def errors(compose: Manifest) -> list[str]:
    """What the schema refuses."""
    found = Draft201909Validator(SCHEMA).iter_errors(compose)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in found]


def test_valid_by_the_specification(compose: Manifest) -> None:
    assert errors(compose) == []


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("ui", "portz", ["127.0.0.1:1:1"]),
        ("ui", "read_only", "certainly"),
        ("control", "depends_on", {"migrate": {"condition": "service_is_fine"}}),
        ("evaluate-gpu", "deploy", {"resources": {"reservations": {"gpus": 1}}}),
        ("postgres", "healthcheck", {"test": ["CMD", "x"], "intervall": "5s"}),
    ],
)
def test_the_check_finds_mistakes(compose: Manifest, service: str, key: str, value: Any) -> None:
    broken = copy.deepcopy(compose)
    broken["services"][service][key] = value
    assert errors(broken)


def test_containers_are_confined(compose: Manifest) -> None:
    for name, service in compose["services"].items():
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit"} <= service.keys(), name
        assert not {"privileged", "network_mode", "pid", "cap_add"} & service.keys(), name
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert tag != "latest", name


def test_ports_are_open_to_this_machine_only(compose: Manifest) -> None:
    ports = [p for service in compose["services"].values() for p in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_long_running_services_say_how_they_are(compose: Manifest) -> None:
    for name, service in compose["services"].items():
        if name in ("migrate", "study", "cli"):
            assert "restart" not in service, f"{name} runs once"
            continue
        assert service["restart"] == "unless-stopped", name
        assert {"test", "interval", "timeout", "retries"} <= service["healthcheck"].keys(), name


def test_everything_waits_for_the_schema(compose: Manifest) -> None:
    services = compose["services"]
    for name in services.keys() - SERVERS - {"migrate"}:
        waits = services[name]["depends_on"]
        assert waits["migrate"] == {"condition": "service_completed_successfully"}, name
        for other, how in waits.items():
            assert other in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_profiles(compose: Manifest) -> None:
    profiles = {n: s["profiles"] for n, s in compose["services"].items() if "profiles" in s}
    assert profiles == {"evaluate-gpu": ["gpu"], "study": ["study"], "cli": ["cli"]}
    gpu = compose["services"]["evaluate-gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert gpu["build"]["args"] == {"DEVICE": "cuda"}
    assert gpu["environment"]["REMELT_ENGINE_DEVICE"] == "cuda"


def test_secrets_are_files(compose: Manifest) -> None:
    known = {f"REMELT_{field.upper()}" for field in Settings.model_fields} | {"REMELT_SECRETS_DIR"}
    secret = {name for name in known if name.endswith(("_URL", "_KEY"))} - {"REMELT_STORE_URL"}
    assert len(secret) == 4
    for name, service in compose["services"].items():
        used = {key for key in service.get("environment", {}) if key.startswith("REMELT_")}
        assert used <= known, name
        assert not used & secret, f"{name}: a secret in the environment"
        for each in service.get("secrets", []):
            source = each["source"] if isinstance(each, dict) else each
            assert source in compose["secrets"], name
            if name not in SERVERS:
                assert source.removeprefix("remelt_") in Settings.model_fields, name
        for each in service.get("configs", []):
            assert (ROOT / compose["configs"][each["source"]]["file"]).is_file(), name
    for each in compose["secrets"].values():
        assert each["file"].startswith("./k8s/secrets/")


def test_the_same_servers_as_in_the_cluster(
    compose: Manifest, render: Callable[[str], tuple[Manifest, ...]]
) -> None:
    """One set of versions, and one way of starting the object store."""
    sets = {o["metadata"]["name"]: o for o in render("laptop") if o["kind"] == "StatefulSet"}
    for name, service in (("postgres", "postgres"), ("rabbitmq", "rabbitmq"), ("seaweedfs", "s3")):
        (container,) = sets[name]["spec"]["template"]["spec"]["containers"]
        ours = compose["services"][service]
        assert ours["image"] == container["image"]
        user = sets[name]["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
        assert ours["user"] == f"{user}:{user}"
        words = ours.get("entrypoint", []) + ours.get("command", [])
        theirs = container.get("command", []) + container.get("args", [])
        assert [w.rsplit("/", 1)[-1] for w in words] == [w.rsplit("/", 1)[-1] for w in theirs]


def test_no_variable_is_left_open() -> None:
    """Every ${…} has a default: `docker compose up` needs no .env file."""
    text = (ROOT / "docker-compose.yml").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for variable in re.findall(r"(?<!\$)\$(?!\$)\{?[^}]*\}?", text):
        assert ":-" in variable, variable
    assert yaml.safe_load(text)
