"""What the tests of the deployment files share: rendered manifests, the compose file, and the
`remelt` commands that stand in them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
Manifest = dict[str, Any]
FOLDERS = sorted([*(p.name for p in (ROOT / "k8s" / "overlays").iterdir()), "study"])


@cache
def _render(name: str) -> tuple[Manifest, ...]:
    folder = ROOT / "k8s" / (name if name == "study" else f"overlays/{name}")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="session")
def render() -> Callable[[str], tuple[Manifest, ...]]:
    """Renders one of the folders that people apply; skips where kubectl is missing."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders kustomize folders offline, is not installed")
    return _render


@pytest.fixture(params=FOLDERS)
def manifests(
    request: pytest.FixtureRequest, render: Callable[[str], tuple[Manifest, ...]]
) -> tuple[Manifest, ...]:
    """Every object of one folder, folder by folder."""
    return render(request.param)


@pytest.fixture(scope="session")
def compose() -> Manifest:
    """docker-compose.yml, anchors resolved."""
    found: Manifest = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


@pytest.fixture(scope="session")
def pod_specs() -> Callable[[tuple[Manifest, ...]], list[tuple[str, Manifest]]]:
    """(Kind/name, pod spec) of everything that makes pods."""

    def found(objects: tuple[Manifest, ...]) -> list[tuple[str, Manifest]]:
        specs = []
        for each in objects:
            spec = each.get("spec", {})
            spec = spec.get("jobTemplate", {}).get("spec", spec)
            if "template" in spec:
                name = f"{each['kind']}/{each['metadata']['name']}"
                specs.append((name, spec["template"]["spec"]))
        return specs

    return found


def _commands(value: Any) -> Iterator[list[str]]:
    """Every `remelt …` in a tree of YAML: as a list of words, or inside a line for a shell."""
    if isinstance(value, dict):
        for each in value.values():
            yield from _commands(each)
    elif isinstance(value, list):
        words = [str(v) for v in value]
        if words[:1] == ["remelt"]:
            yield words[1:]
        for each in value:
            if isinstance(each, str) and "remelt " in each:
                for part in re.split(r"[|;&]+", each):
                    line = shlex.split(part)
                    if line and line[0] == "remelt":
                        yield line[1:]
            elif not isinstance(each, str):
                yield from _commands(each)


@pytest.fixture(scope="session")
def remelt_commands() -> Callable[[Any], list[list[str]]]:
    """Finds the `remelt` commands (without their first word) in parsed YAML."""
    return lambda value: list(_commands(value))
