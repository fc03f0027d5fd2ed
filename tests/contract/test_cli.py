"""The command line: a story in its help, JSON for programs, one-line errors, four exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

import services.cli as command_line
from services.queue import celery_app
from services.settings import Settings, settings
from services.spec import METHODS

#: commands that print no data: they start processes, or their output is a file format by itself
NO_DATA = {
    "up", "down", "ui", "worker", "worker control", "worker evaluate", "worker ping",
    "study export", "export", "study schema", "evaluate", "noise",
    "suite leakage",
}  # fmt: skip
SPEC = """
name: first
pool: tiny
suites: [pick, say]
objectives: [macro, negative_flip_rate]
budget: {trials: 4}
"""


@dataclass(frozen=True)
class Result:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The printed JSON."""
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def remelt(
    database_url: str,
    broker_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """Run `remelt …` in this process against fresh servers."""
    monkeypatch.setenv("REMELT_DATABASE_URL", database_url)
    monkeypatch.setenv("REMELT_BROKER_URL", broker_url)
    monkeypatch.setenv("REMELT_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> Result:
        settings.cache_clear()
        celery_app.cache_clear()
        monkeypatch.setattr(sys, "argv", ["remelt", *arguments])
        code = 0
        try:
            command_line.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    yield run
    settings.cache_clear()
    celery_app.cache_clear()


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name."""
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


ALL = dict(commands(command_line.cli))


@pytest.mark.parametrize("name", ALL)
def test_every_command_says_what_it_does(name: str) -> None:
    command = ALL[name]
    first = (command.help or "").strip().split("\n\n")[0]
    assert first.endswith((".", ")")), name
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.name} has no help"


@pytest.mark.parametrize("name", ALL)
def test_everything_that_prints_data_prints_json(name: str) -> None:
    command = ALL[name]
    has_json = any("--json" in parameter.opts for parameter in command.params)
    assert has_json or name in NO_DATA or isinstance(command, click.Group)


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    missing = [n for n in Settings.model_fields if f"`REMELT_{n.upper()}`" not in text]
    assert not missing


def test_every_searcher_and_option_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "searchers.md").read_text()
    for name, method in METHODS.items():
        section = text.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        assert [o.name for o in method.options if f"`{o.name}`" not in section] == []


def test_the_searchers_are_listed(remelt: Run) -> None:
    listed = remelt("study", "methods", "--json")
    assert [one["method"] for one in listed.data] == list(METHODS)
    by_name = {one["method"]: one for one in listed.data}
    assert by_name["cma-es"]["options"]["sigma"]["default"] == 0.07
    shown = remelt("study", "methods").out
    assert all(name in shown for name in METHODS)


def test_help_reads_like_a_story(remelt: Run) -> None:
    shown = remelt("--help")
    assert shown.code == 0
    order = [shown.out.index(f"\n  {name} ") for name in ("up", "pool", "suite", "study", "pull")]
    assert order == sorted(order)


def register(remelt: Run, tiny_pool: Path) -> None:
    """The tiny pool and its suites."""
    folders = [str(p) for p in sorted((tiny_pool / "pool").iterdir())]
    made = remelt("pool", "add", "tiny", *folders, "--reference", "now", "--json")
    assert made.code == 0, made.err
    assert [c["name"] for c in made.data["checkpoints"]] == ["far", "left", "now", "right"]
    for name in ("pick", "say", "read"):
        added = remelt("suite", "add", name, str(tiny_pool / "suites" / f"{name}.jsonl"), "--json")
        assert added.code == 0, added.err
        assert added.data["items"] == 48
        assert sum(added.data[s] for s in ("search", "validation", "test")) == 48


def test_a_study_from_files_to_cancel(remelt: Run, tiny_pool: Path, tmp_path: Path) -> None:
    register(remelt, tiny_pool)
    spec = tmp_path / "study.yaml"
    spec.write_text(SPEC)
    made = remelt("study", "submit", str(spec), "--key", "k", "--json")
    assert made.code == 0, made.err
    assert made.data["created"] is True
    again = remelt("study", "submit", str(spec), "--key", "k", "--json")
    assert (again.data["study"], again.data["created"]) == (made.data["study"], False)
    number = str(made.data["study"])
    listed = remelt("study", "list", "--json").data
    assert [(s["id"], s["state"], s["pool"]) for s in listed] == [(1, "running", "tiny")]
    assert remelt("study", "pause", number, "--json").data["state"] == "paused"
    assert remelt("study", "resume", number, "--json").data["state"] == "running"
    shown = remelt("study", "show", number)
    assert "study 1 (first): running, phase search" in shown.out
    assert "no results yet" in shown.out
    assert remelt("study", "cancel", number).out == "study 1: cancelled\n"
    refused = remelt("study", "resume", number)
    assert refused.code == 2
    assert "is cancelled, so it cannot be resumed" in refused.err


def test_a_study_is_edited_cloned_exported_and_archived(
    remelt: Run, tiny_pool: Path, tmp_path: Path
) -> None:
    register(remelt, tiny_pool)
    spec = tmp_path / "study.yaml"
    spec.write_text(SPEC)
    dry = remelt("study", "submit", str(spec), "--dry-run", "--json")
    assert (dry.data["candidates"], dry.data["tokens_how"]) == (4, "estimated")
    assert "nothing was stored" in remelt("study", "submit", str(spec), "--dry-run").out
    assert remelt("study", "list", "--json").data == []
    remelt("study", "submit", str(spec), "--json")
    edited = remelt("study", "edit", "1", "--trials", "6", "--item-evaluations", "9000")
    assert edited.out == "study 1: 0 of 6 candidates, 0 of 9\u202f000 item evaluations\n"
    assert remelt("study", "edit", "1", "--item-evaluations", "none", "--json").data["used"] == [
        "0 of 6 candidates"
    ]
    for options, message in (
        ((), "nothing to change"),
        (("--trials", "0"), "budget.trials: Input should be greater than or equal to 1"),
        (("--wall-minutes", "soon"), "budget.wall_minutes"),
    ):
        refused = remelt("study", "edit", "1", *options)
        assert refused.code == 2
        assert message in refused.err
    clone = tmp_path / "clone.yaml"
    assert remelt("study", "clone", "1", "--out", str(clone)).code == 0
    assert "trials: 6" in clone.read_text()
    assert remelt("study", "submit", str(clone), "--json").data["study"] == 2
    for kind in ("csv", "parquet", "optuna"):
        out = tmp_path / f"x.{kind}"
        assert remelt("export", "1", "--format", kind, "--out", str(out)).code == 0
        assert out.stat().st_size
    assert "has chosen no candidate" in remelt("export", "1", "--format", "recipe").err
    assert "so it cannot be archived" in remelt("study", "archive", "1").err
    remelt("study", "cancel", "1")
    assert remelt("study", "archive", "1").code == 0
    assert [s["id"] for s in remelt("study", "list", "--json").data] == [2]
    assert len(remelt("study", "list", "--archived", "--json").data) == 2
    assert remelt("study", "unarchive", "1").code == 0
    assert len(remelt("study", "list", "--json").data) == 2


@pytest.mark.parametrize(
    ("host", "environment", "warned"),
    [
        ("127.0.0.1", {}, False),
        ("0.0.0.0", {}, True),
        ("0.0.0.0", {"REMELT_LOCAL_ROLE": "viewer"}, False),
        ("0.0.0.0", {"REMELT_SIGN_IN_FILE": "/etc/remelt/sign-in.toml"}, False),
    ],
)
def test_a_dashboard_that_anybody_may_steer_is_warned_about(
    remelt: Run,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    environment: dict[str, str],
    warned: bool,
) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr("services.cli.stack._become", begun.append)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ended = remelt("ui", "--host", host)
    assert ("everybody who reaches 0.0.0.0:8501 acts as admin" in ended.err) == warned
    (command,) = begun
    file = environment.get("REMELT_SIGN_IN_FILE")
    assert ("--secrets.files" in command) == (file is not None)
    assert file is None or file in command


def test_merging_members_of_a_pool(remelt: Run, tiny_pool: Path, tmp_path: Path) -> None:
    register(remelt, tiny_pool)
    members = {
        c["name"]: c["digest"] for c in remelt("pool", "show", "tiny", "--json").data["checkpoints"]
    }
    file = tmp_path / "m.yaml"
    file.write_text(f"pool: tiny\nparents: {{now: 0.5, {members['left'][:12]}: 0.5}}\n")
    made = remelt("merge", str(file), str(tmp_path / "out"), "--threads", "1", "--json")
    assert made.code == 0, made.err
    assert list(made.data["parents"].values()) == [members["now"], members["left"]]
    file.write_text("parents: {then: 1.0}\n")
    lost = remelt("merge", str(file), str(tmp_path / "no"), "--pool", "tiny", "--threads", "1")
    assert lost.code == 2
    assert "no member 'then'. Has: " in lost.err


def test_tables_for_people(remelt: Run, tiny_pool: Path) -> None:
    register(remelt, tiny_pool)
    assert "now *" in remelt("pool", "show", "tiny").out
    assert "tiny" in remelt("pool", "list").out
    assert "pick" in remelt("suite", "list").out


def test_a_task_of_lm_eval_becomes_a_suite(remelt: Run, lm_tasks: Path) -> None:
    here = ("--include-path", str(lm_tasks))
    made = remelt("suite", "add", "ranked", "--lm-eval", "rank", *here, "--limit", "20", "--json")
    assert made.code == 0, made.err
    assert (made.data["form"], made.data["items"], made.data["new"]) == ("choice", 20, True)
    again = remelt("suite", "add", "ranked", "--lm-eval", "rank", *here, "--limit", "20")
    assert "20 items, form choice, search" in again.out
    assert "was registered already" in again.out
    judged = remelt("suite", "add", "spoken", "--lm-eval", "say", *here, "--filter", "all")
    assert "30 items, form exact, judged by lm-eval" in judged.out
    assert {s["name"] for s in remelt("suite", "list", "--json").data} == {"ranked", "spoken"}
    for arguments, message in (
        (["--lm-eval", "rank", *here, "--metric", "f1"], "task rank: has no metric 'f1'. It has:"),
        (["--lm-eval", "rnk", *here], "task rnk: is not known. Near to it: rank"),
        (
            ["a.jsonl", "--lm-eval", "rank"],
            "suite s: more than one of a file, a table and a task. Give FILE",
        ),
        ([], "suite s: neither a file nor a task"),
    ):
        ended = remelt("suite", "add", "s", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err
        assert len(ended.err.strip().splitlines()) == 1


def test_refusals_become_suites_of_either_form(remelt: Run, tmp_path: Path) -> None:
    table, items = tmp_path / "x.csv", tmp_path / "items.jsonl"
    lines = [f"{i},question {i}?,homonyms,{('safe', 'unsafe')[i % 2]},kill,\n" for i in range(40)]
    table.write_text("id,prompt,type,label,focus,note\n" + "".join(lines))
    expect = ("comply", "refuse")
    items.write_text(
        "".join(
            json.dumps({"id": str(i), "prompt": f"q{i}", "expect": expect[i % 2]}) + "\n"
            for i in range(40)
        )
    )
    for name, arguments, form in (
        ("x", ["--xstest", str(table)], "refusal"),
        ("xl", ["--xstest", str(table), "--refusal-likelihood"], "choice"),
        ("mine", [str(items)], "refusal"),
        ("short", [str(items), "--answer-tokens", "8"], "refusal"),
        ("likely", ["--refusal-likelihood", str(items), "--frame", "Q: {prompt}\\nA:"], "choice"),
    ):
        made = remelt("suite", "add", name, *arguments, "--json")
        assert made.code == 0, made.err
        assert (made.data["form"], made.data["items"], made.data["new"]) == (form, 40, True)
    digests = {s["name"]: s["digest"] for s in remelt("suite", "list", "--json").data}
    assert len(set(digests.values())) == 5
    # the same again is the same suite
    again = remelt("suite", "add", "mine", str(items), "--answer-tokens", "32", "--json")
    assert (again.data["digest"], again.data["new"]) == (digests["mine"], False)
    for arguments, message in (
        ([str(items), "--xstest", str(table)], "more than one of a file, a table and a task"),
        ([str(items), "--frame", "x"], "the frame 'x' has no place for the prompt"),
        (["--xstest", str(items)], "column 'id' is missing"),
        (["--xstest", str(table), "--normalise"], "options for refusals beside --lm-eval or"),
        (["--lm-eval", "t", "--answer-tokens", "3"], "options for refusals beside --lm-eval or"),
    ):
        ended = remelt("suite", "add", "s", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err


def test_without_lm_eval_its_extra_is_named(
    remelt: Run, lm_tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    ended = remelt("suite", "add", "s", "--lm-eval", "rank", "--include-path", str(lm_tasks))
    assert ended.code == 2
    assert ended.err.strip() == (
        "remelt: lm-eval task rank: lm-eval is not installed. "
        "Install it: pip install 'remelt[lm-eval]'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "show", "7"], "no study has the number 7. List them: remelt study list"),
        (["pool", "show", "nope"], "no pool is called 'nope'. Known: none"),
        (["study", "submit", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["pool", "add", "Bad Name", "a", "b", "--reference", "a"], "'Bad Name' is not a name"),
        (["pool", "add", "p", "/a", "/b", "--reference", "c"], "reference 'c' is not among"),
        (["suite", "add", "s", "/nowhere.jsonl"], "/nowhere.jsonl: cannot be read"),
        (["pull", "1/x", "/tmp/never"], "'1/x' names no artefact"),
        (["publish", "1", "1"], "study 1 has no trial 1"),
        (["study", "report", "1"], "no study has the number 1"),
        (["export", "1", "--lm-eval", "/tmp/never"], "no study has the number 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    remelt: Run, arguments: list[str], message: str
) -> None:
    ended = remelt(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("remelt: ")
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_unknown_pool_in_a_spec_lists_the_known_ones(
    remelt: Run, tiny_pool: Path, tmp_path: Path
) -> None:
    register(remelt, tiny_pool)
    spec = tmp_path / "study.yaml"
    spec.write_text(SPEC.replace("pool: tiny", "pool: tinny"))
    assert "no pool is called 'tinny'. Known: tiny" in remelt("study", "submit", str(spec)).err
    spec.write_text(SPEC + "reference: then\n")
    assert "Name one of: far, left, now, right" in remelt("study", "submit", str(spec)).err
    spec.write_text(
        SPEC.replace("[pick, say]", "[pick, read]") + "constraints:\n"
        "  - {metric: churn, suite: read, max: 0.1}\n"
    )
    ended = remelt("study", "submit", str(spec))
    assert "constraints.0: suite 'read' is text" in ended.err


def test_schema_is_json(remelt: Run) -> None:
    schema = json.loads(remelt("study", "schema").out)
    assert schema["additionalProperties"] is False
    assert {"pool", "suites", "search", "budget"} <= set(schema["properties"])


def test_doctor_names_what_is_missing(remelt: Run) -> None:
    found = remelt("doctor", "--json")
    checks = {one["check"]: one for one in found.data}
    assert checks["database"]["ok"]
    assert checks["schema"]["ok"]
    assert checks["broker"]["ok"]
    assert checks["store"]["ok"]
    assert not checks["workers"]["ok"]
    assert "remelt up" in checks["workers"]["mend"]
    assert found.code == 1


def test_the_installed_command_starts(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("remelt")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("remelt, version ")
    done = subprocess.run([program, "stduy"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "stduy" in done.stderr
