"""`remelt evaluate`: what it prints, for people and for programs, and how it refuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from optim.intervals import share_interval
from services.settings import settings
from services.studies.clusters import labels
from services.suites import parse_suite
from tests.plugins.tiny_models import Save
from workers.evaluate import main


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REMELT_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_json_is_one_object_an_item_then_one_a_suite(
    tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tiny_pool / f"suites/{name}.jsonl" for name in ("pick", "say", "read")]
    main([str(tiny_pool / "pool/now"), "--suite", *map(str, files), "--json", "--device", "cpu"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    items, summaries = lines[:-3], lines[-3:]
    suites = [parse_suite(file.stem, file.read_text(), where="") for file in files]
    assert [(line["suite"], line["id"]) for line in items] == [
        (suite.name, item.id) for suite in suites for item in suite.items
    ]
    keys = {"choice": "choice", "exact": "answer", "text": "nll"}
    for suite, summary in zip(suites, summaries, strict=True):
        mine = [line for line in items if line["suite"] == suite.name]
        for line in mine:
            assert set(line) == {*("suite", "id", keys[suite.form], "correct", "margin", "tokens")}
            assert line["tokens"] > 0
            assert (line["margin"] is not None) == (suite.form == "choice")
        if suite.form == "text":
            score = sum(line["nll"] for line in mine) / sum(line["tokens"] for line in mine)
            assert all(line["correct"] is None for line in mine)
        else:
            score = sum(line["correct"] for line in mine) / len(mine)
        assert summary["suite"] == suite.name
        assert summary["n"] == len(suite)
        assert summary["score"] == pytest.approx(score, abs=1e-5)
        assert summary["low"] <= summary["score"] <= summary["high"]
        assert summary["weights_digest"] == summaries[0]["weights_digest"]


def test_a_table_of_one_split(tiny_pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pick = tiny_pool / "suites/pick.jsonl"
    count = len(parse_suite("pick", pick.read_text(), where="").split("test"))
    main([str(tiny_pool / "pool/far"), "--suite", str(pick), "--split", "test", "--normalise"])
    out = capsys.readouterr().out
    assert "suite" in out
    [row] = [line.split() for line in out.splitlines() if line.split()[:1] == ["pick"]]
    assert " ".join(row[1:4]) == "accuracy per byte"
    assert row[-3:-1] == [str(count), "test"]


def test_items_that_share_a_context_are_dealt_and_counted_together(
    tiny_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (tiny_pool / "suites/pick.jsonl").read_text().splitlines()
    file = tmp_path / "pick.jsonl"
    file.write_text(
        "".join(
            json.dumps(json.loads(line) | {"cluster": f"c{number // 2}"}) + "\n"
            for number, line in enumerate(lines)
        )
    )
    suite = parse_suite("pick", file.read_text(), where="", split_by=None)
    assert suite.split_by == "cluster"
    main([str(tiny_pool / "pool/far"), "--suite", str(file), "--split", "search", "--json"])
    *items, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {line["id"]: line["correct"] for line in items}
    assert list(found) == [item.id for item in suite.split("search")]
    hits = np.array(list(found.values()))
    pairs = labels(suite.split("search"))
    assert pairs is not None
    assert (summary["low"], summary["high"]) == share_interval(hits, clusters=pairs)
    low, high = share_interval(hits)
    assert summary["high"] - summary["low"] > high - low


def test_tasks_of_lm_eval_give_its_own_table(
    tiny_model: Save, lm_tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    folder, here = str(tiny_model("Llama")), ["--include-path", str(lm_tasks)]
    # "own" is judged by code that stands beside the task: here it may run
    main([folder, "--lm-eval", "ranks", "own", "say", *here, "--limit", "5", "--device", "cpu"])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")] for line in out.splitlines()]
    assert {"ranks", "own", "say", "- rank"} <= {row[1] for row in rows if len(row) > 1}
    # "last" has a standard error that lm-eval bootstraps, and says so
    tasks = ["rank", "last", *here, "--num-fewshot", "1"]
    main([folder, "--lm-eval", *tasks, "--json", "--device", "cpu"])
    data = json.loads(capsys.readouterr().out)
    assert (data["n-shot"]["rank"], data["n-samples"]["rank"]["effective"]) == (1, 30)
    assert 0 <= data["results"]["rank"]["acc_norm,none"] <= 1
    assert data["results"]["last"]["perplexity,none"] > 1


def test_plain_rows_give_the_same_answers(
    tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_pool / "pool/now"), "--suite", str(tiny_pool / "suites/pick.jsonl")]
    found = []
    for more in ([], ["--plain"]):
        main([*command, "--json", "--device", "cpu", *more])
        found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    shared, plain = found
    assert [line.get("choice") for line in shared] == [line.get("choice") for line in plain]
    assert shared[-1]["tokens"] < plain[-1]["tokens"]


def bad(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a refused command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    [line] = err.strip().splitlines()
    return line


def test_bad_input_is_one_line_and_exit_code_2(
    tiny_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, pick = str(tiny_pool / "pool/now"), str(tiny_pool / "suites/pick.jsonl")
    here = ["--include-path", str(tmp_path)]
    assert "task x: is not known" in bad([now, "--lm-eval", "x", *here], capsys)
    assert "no such folder" in bad([str(tmp_path / "nothing"), "--suite", pick], capsys)
    assert "cannot be read" in bad([now, "--suite", str(tmp_path / "nothing")], capsys)
    assert "is the name of two files" in bad([now, "--suite", pick, "--suite", pick], capsys)
    assert "0 threads" in bad([now, "--suite", pick, "--threads", "0"], capsys)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "1", "text": "abc"}\n{"id": "2"}\n')
    assert "broken.jsonl:2" in bad([now, "--suite", str(broken)], capsys)
    broken.write_text('{"id": "1", "text": "abc"}\n')
    assert "split is empty" in bad(
        [now, "--suite", str(broken), "--split", "test"], capsys
    ) or "split is empty" in bad([now, "--suite", str(broken), "--split", "search"], capsys)
    broken.write_text(json.dumps({"id": "1", "text": "a" * 100}) + "\n")
    assert "needs 100 positions, the model has 64" in bad([now, "--suite", str(broken)], capsys)


def test_it_is_a_command_and_a_part_of_remelt() -> None:
    for command in (["-m", "workers.evaluate"], ["-m", "services.cli", "evaluate"]):
        done = subprocess.run(
            [sys.executable, *command, "--help"], capture_output=True, text=True, check=True
        )
        assert "usage: remelt evaluate" in done.stdout
