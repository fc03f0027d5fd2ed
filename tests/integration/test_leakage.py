"""`remelt suite leakage` with real models: one that was trained on the suite is told, its merges
inherit it, and the figures are those of plain transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from optim.leakage import GRAM, starts
from services import leakage, registry, stored_suites
from services.db import Database
from services.errors import SuiteRefused
from services.settings import Settings
from services.studies import health
from services.suites import Suite, parse_suite
from workers.leakage import main, matched

if TYPE_CHECKING:
    from tests.plugins.studies import Driver

SPEC = "name: leak\npool: schooled\nsuites: [seen, pick]\nbudget: {trials: 2}\n"
ITEMS = 48


def texts(seed: int, count: int = ITEMS) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    words = ["".join(rng.choice("abcdefgh") for _ in range(4)) for _ in range(count * 6)]
    return [
        {
            "id": f"{i:03d}",
            "prompt": " ".join(words[6 * i : 6 * i + 5]),
            "target": f" {words[6 * i]}",
        }
        for i in range(count)
    ]


def write(path: Path, items: Sequence[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, items)) + "\n")
    return path


@pytest.fixture(scope="module")
def schooled(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has been trained on the suite `seen` until it knows it by heart."""
    folder = tmp_path_factory.mktemp("schooled")
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(tiny_pool / "pool" / "now")
    tokenizer = AutoTokenizer.from_pretrained(tiny_pool / "pool" / "now")
    shown = [item["prompt"] + item["target"] for item in texts(1)]
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in shown])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def suite(
    driver: Driver, database: Database, config: Settings, tiny_pool: Path, schooled: Path,
    tmp_path: Path,
) -> Suite:  # fmt: skip
    """The suite, and a pool of the schooled checkpoint and two that have not seen it."""
    folders = [f"knows={schooled}", *(str(tiny_pool / "pool" / n) for n in ("now", "left"))]
    registry.add_pool(database, config, "schooled", folders, reference="now")
    return stored_suites.add_suite(database, "seen", write(tmp_path / "seen.jsonl", texts(1)))[0]


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    main([*arguments, "--device", "cpu", "--json"])
    return json.loads(capsys.readouterr().out)


def by_hand(folder: Path, item: dict[str, Any]) -> tuple[float, list[bool]]:
    """Negative log-likelihood of a text, and whether each start is continued as it goes on."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(item["prompt"] + item["target"])["input_ids"]
    with torch.no_grad():
        # the engine puts one more opening token in front, as lm-eval does
        scores = model(torch.tensor([[1, *ids]])).logits[0].log_softmax(-1)
        nll = -sum(float(scores[i, token]) for i, token in enumerate(ids) if i)
        best = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    own = ids[1:]
    hits = [best[p : p + GRAM] == own[p : p + GRAM] for p in starts(len(own))]
    return nll, hits


def test_a_checkpoint_that_knows_the_suite_is_told(
    driver: Driver,
    database: Database,
    suite: Suite,
    schooled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    against = str(write(tmp_path / "others.jsonl", texts(2)))
    found = asked(capsys, "seen", "--against", against, "--checkpoint", "schooled/knows")
    assert found["signs"] == ["perplexity", "5-grams"]
    assert found["flagged"]
    assert found["paired"]
    opened = leakage.open_items(suite)
    assert found["n"] == len(opened) < ITEMS
    assert found["grams"]["own"] > 0.6 > 0.2 > found["grams"]["other"]
    told = [by_hand(schooled, item) for item in texts(1) if item["id"] in {i.id for i in opened}]
    tokens = sum(len(item["prompt"] + item["target"]) for item in texts(1)[: len(told)])
    assert found["nats"]["own"] == pytest.approx(sum(n for n, _ in told) / tokens, rel=1e-4)
    hits = [hit for _, each in told for hit in each]
    assert found["grams"]["own"] == pytest.approx(sum(hits) / len(hits))

    innocent = asked(capsys, "seen", "--against", against, "--checkpoint", "schooled")
    assert (innocent["member"], innocent["signs"]) == ("now", [])
    main(["seen", "--against", against, "--checkpoint", "schooled/knows", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "signs that knows has seen seen: perplexity and 5-grams; merges inherit it" in shown

    number = driver.submit(SPEC)
    driver.run(number)
    study = driver.study(number)
    for trial in driver.trials(number):
        inherited = leakage.of_trial(database, study, trial.number)
        part = abs(trial.weights[0]) > leakage.PART
        assert [(i.parent, i.leakage.suite) for i in inherited] == [("knows", "seen")] * part
    (finding,) = [f for f in health.findings(database, study) if f.kind == "leakage"]
    assert finding.what.startswith("knows may have seen seen (knows: 5 tokens are continued right")
    assert "others.jsonl" in finding.what

    # another reading of the same checkpoint, suite and file replaces it
    stored = leakage.of_checkpoints(database, [found["checkpoint"]], [study.suites[0].id])
    again = replace(stored[0], signs=())
    digest = driver.sql("SELECT against_digest FROM leakage LIMIT 1")[0]["against_digest"]
    leakage.save(database, suite, again, digest)
    assert leakage.findings(database, study) == []


def test_what_can_be_compared(tmp_path: Path) -> None:
    def read(items: Sequence[dict[str, Any]], name: str = "s") -> Suite:
        lines = "\n".join(map(json.dumps, items))
        return parse_suite(name, lines, where="s", require_splits=False)

    suite, others = read(texts(1)), texts(2)
    own, other, paired = matched(suite, read(others), 500)
    assert paired
    assert [item.id for item in own] == [item.id for item in other]
    assert all(suite.split_of(item) != "test" for item in own)
    assert len(matched(suite, read(others), 5)[1]) == 5
    train = [{**item, "id": f"train-{item['id']}"} for item in others]
    own, other, paired = matched(suite, read(train), 20)
    assert (len(own), len(other), paired) == (20, 20, False)
    with pytest.raises(SuiteRefused, match="of its texts are the suite's own"):
        matched(suite, read([*train, {**texts(1)[0], "id": "x"}, texts(1)[1]]), 500)


def test_what_is_refused(
    suite: Suite, tmp_path: Path, tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(write(tmp_path / "others.jsonl", texts(2)))
    cases = [
        (["seen", "--against", good, "--checkpoint", "schooled/nobody"], "has no checkpoint"),
        (["seen", "--against", good, "--checkpoint", "none/now"], "no pool"),
        (["seen", "--against", good, "--checkpoint", "schooled", "--limit", "0"], "Use 2 or more"),
        (["none", "--against", good, "--checkpoint", "schooled"], "no suite"),
        (["seen", "--against", "/none", "--checkpoint", "schooled"], "cannot be read"),
        (
            ["seen", "--against", str(tiny_pool / "suites/pick.jsonl"), "--checkpoint", "schooled"],
            "of form 'choice'",
        ),
    ]
    for arguments, text in cases:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert text in capsys.readouterr().err
