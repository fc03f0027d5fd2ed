"""Every `remelt` command that a manifest, the compose file, the image or its guide names exists,
takes the options given, and starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from services.cli import cli

ROOT = Path(__file__).resolve().parents[2]
Commands = Callable[[Any], list[list[str]]]
STARTED = ["migrate", "study submit", "ui", "worker control", "worker evaluate", "worker ping"]


def resolve(words: list[str]) -> str:
    """The command's full name; raises click's UsageError where words and options do not fit."""
    group: click.Group = cli
    context = click.Context(cli, info_name="remelt")
    path: list[str] = []
    rest = list(words)
    while rest:
        name, command, left = group.resolve_command(context, rest)
        assert command is not None
        path.append(str(name))
        if isinstance(command, click.Group) and left and not left[0].startswith("-"):
            group, rest = command, left
            context = click.Context(command, info_name=name, parent=context)
            continue
        if left not in (["--help"], ["-h"]):
            command.make_context(name, list(left), parent=context)
        break
    return " ".join(path)


def documented() -> list[list[str]]:
    """The commands of the guide's code blocks: `… -- remelt X` and `docker compose run … cli X`."""
    found = []
    for block in (ROOT / "docs/kubernetes.md").read_text().split("```")[1::2]:
        for line in block.replace("\\\n", " ").splitlines():
            for mark in ("-- remelt ", "--rm cli ", "&& remelt "):
                if mark in line:
                    words = line.split(mark, 1)[1].split("#")[0]
                    found.append(words.split("'")[0].split())
    return found


def test_manifests(manifests: tuple[Any, ...], remelt_commands: Commands) -> None:
    found = {resolve(words) for words in remelt_commands(list(manifests))}
    assert found
    assert found <= set(STARTED)


def test_compose(compose: Any, remelt_commands: Commands) -> None:
    services = dict(compose["services"])
    cli_service = services.pop("cli")
    assert cli_service["entrypoint"] == ["remelt"]
    assert resolve(cli_service["command"]) == "doctor"
    found = {resolve(words) for words in remelt_commands(services)}
    assert found == set(STARTED)


def test_guide() -> None:
    found = {resolve(words) for words in documented()}
    assert {"pool add", "suite add", "doctor"} <= found


@pytest.mark.parametrize(
    "words",
    [
        ["worker", "advance"],
        ["worker", "ping"],
        ["worker", "ping", "gpu"],
        ["ui", "--adress", "0.0.0.0"],
        ["ui", "--port", "http"],
        ["study", "submit", "--wait"],
        ["migrate", "now"],
    ],
)
def test_the_check_finds_mistakes(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        resolve(words)


def test_each_starts() -> None:
    """In a process of its own, all at once: imports are what a fresh container would trip over."""
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "services.cli", *name.split(), "--help"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in STARTED
    }
    for name, process in running.items():
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"{name}: {err}"
        assert out.startswith("Usage: "), name
        assert name.split()[-1] in out.splitlines()[0]
