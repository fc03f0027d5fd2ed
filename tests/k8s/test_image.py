"""The Dockerfile, read as text: no image can be built where these tests run."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from services.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "k8s/image/Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest), comments and line ends taken out."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def final_stage() -> list[tuple[str, str]]:
    """What becomes the image."""
    found = instructions()
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def test_base_image_is_pinned_once() -> None:
    arguments = [rest for word, rest in instructions() if word == "ARG"]
    (base,) = (a for a in arguments if a.startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.1[1-3]\.\d+-slim-\w+", base)
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert stages == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]


def test_runs_as_a_user_by_number() -> None:
    users = [rest for word, rest in final_stage() if word == "USER"]
    assert users == ["10001:10001"]
    after = [w for w, _ in final_stage()][[w for w, _ in final_stage()].index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & set(after)
    assert "useradd --uid 10001" in TEXT, "getpass.getuser() needs a name for the number"


def test_every_install_is_constrained() -> None:
    installs = [
        part
        for word, rest in instructions()
        if word == "RUN"
        for part in re.split(r"&&|;;", rest)
        if "pip install" in part
    ]
    assert len(installs) == 3
    for line in installs:
        assert "--constraint constraints.txt" in line or "--no-deps --editable ." in line, line
    assert "torch==" not in TEXT, "the version stands in constraints.txt alone"


def test_constraints_name_a_torch_for_both_devices() -> None:
    path = ROOT / "constraints.txt"
    if not path.exists():
        pytest.skip("constraints.txt is not there yet")
    pins = [line for line in path.read_text().splitlines() if re.match(r"torch\s*==", line)]
    assert len(pins) == 1, "one pin, for the CPU wheel and the CUDA wheel"
    assert "+" not in pins[0], "a local version (+cpu) would forbid the CUDA wheel"


def test_nothing_is_fetched_by_url_or_from_outside_the_context() -> None:
    assert not [rest for word, rest in instructions() if word == "ADD"]
    assert "curl" not in TEXT
    assert "wget" not in TEXT


def test_context_is_an_allow_list() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [shlex.split(rest) for word, rest in instructions() if word == "COPY"]
    for words in copied:
        for source in words[:-1]:
            if not source.startswith(("--", "/", ".")):
                assert source in kept
    # what the code is made of is in; what must never be is not
    assert {"optim", "services", "ui", "workers", "pyproject.toml", "README.md"} <= kept
    for never in (".git", ".venv", "k8s", "tests", ".env", "pools"):
        assert not any(fnmatch(never, rule) for rule in kept)


def test_environment_is_known_and_holds_no_secret() -> None:
    (line,) = (rest for word, rest in final_stage() if word == "ENV")
    names = dict(word.split("=", 1) for word in shlex.split(line))
    ours = {n.removeprefix("REMELT_").lower() for n in names if n.startswith("REMELT_")}
    assert ours == {"home"}
    assert ours <= Settings.model_fields.keys()
    assert names["HOME"] == names["REMELT_HOME"]
