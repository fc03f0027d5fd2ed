"""Checked answers are the generated ones, and what is known is not generated again."""

from pathlib import Path

import pytest
import torch

from optim.recipe import Recipe
from services.checkpoints import read_checkpoint
from workers.engine.encode import Prompt
from workers.engine.generate import DRAFT_SETS, GenerationPlan, greedy_answers
from workers.engine.loading import load_pool
from workers.engine.model import LiveModel
from workers.engine.tree import Sharing

CANDIDATES = [(1.0, 0, 0), (0.4, 0.9, -0.3), (0, 1.0, 0), (0.5, 0.25, 0.25), (0, 0, 1.0)]


class Live:
    """Three random checkpoints, and a model that is one after the other."""

    def __init__(self, root: Path) -> None:
        heads = [read_checkpoint(root / "pool" / name) for name in ("now", "left", "right")]
        self.pool = load_pool(
            [(head.digest, head.path) for head in heads],
            device=torch.device("cpu"),
            buffer_bytes_per_value=4,
            progress=lambda *_: None,
        )
        self.flat = torch.zeros(self.pool.layout.size)
        self.model = LiveModel(heads[0], self.pool.layout, self.flat)
        self.model.end_tokens = frozenset(range(8, 60, 9))

    def become(self, weights: tuple[float, ...]) -> LiveModel:
        self.pool.form_(self.flat, Recipe(parents=tuple(self.pool.parents), weights=weights))
        self.model.begin(lambda name: weights)
        return self.model


@pytest.fixture
def live(tiny_pool: Path) -> Live:
    return Live(tiny_pool)


def make_plan(model: LiveModel, *, equal_lengths: bool = False) -> GenerationPlan:
    prompts = [
        Prompt(ids=(1, *(3 + (5 * i + j) % 20 for j in range(i % 6 + 1))), most=2 + i % 5)
        for i in range(24)
    ]
    return GenerationPlan(
        prompts,
        batch_tokens=60,
        generation_tokens=60,
        vocabulary=model.encoder.vocabulary,
        sharing=model.sharing,
        equal_lengths=equal_lengths,
    )


@pytest.mark.parametrize("equal_lengths", [False, True])
def test_known_answers_change_the_work_not_the_answers(live: Live, equal_lengths: bool) -> None:
    plan = make_plan(live.become(CANDIDATES[0]), equal_lengths=equal_lengths)
    different = set()
    for weights in CANDIDATES * 2:
        model = live.become(weights)
        found, spent = greedy_answers(model, plan, lambda done: None)
        fresh, _ = greedy_answers(model, make_plan(model), lambda done: None)
        assert found == fresh
        assert spent >= len(plan.prompts)
        different.add(tuple(found))
        for answer, prompt in zip(found, plan.prompts, strict=True):
            assert 1 <= len(answer) <= prompt.most
            assert not set(answer[:-1]) & model.end_tokens
            assert len(answer) == prompt.most or answer[-1] in model.end_tokens
    assert len(different) > 2, "the candidates must disagree, or this shows little"


def test_nothing_is_generated_where_everything_is_known(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = live.become(CANDIDATES[1])
    plan = make_plan(model)
    first, _ = greedy_answers(model, plan, lambda done: None)
    monkeypatch.setattr(model, "generate", None)
    again, spent = greedy_answers(model, plan, lambda done: None)
    assert again == first
    assert spent == sum(batch.tokens for batch in plan.drafts[0].batches)


def test_answers_are_remembered_more_and_more_rarely(live: Live) -> None:
    model = live.become(CANDIDATES[0])
    plan = make_plan(model)
    learned = []
    for candidate in range(1, 40):
        before = list(plan.drafts)
        dropped = plan.learn([(candidate % 50 + 3, i) for i in range(24)], known=0)
        if plan.drafts != before:
            learned.append(candidate)
        assert bool(dropped) == (len(before) == DRAFT_SETS and plan.drafts != before)
        assert len(plan.drafts) <= DRAFT_SETS
    assert learned == [1, 2, 4, 8, 16, 32]
    assert plan.learn([(3,)] * 24, known=24) == []


def test_equal_prompts_share_what_is_known(live: Live) -> None:
    model = live.become(CANDIDATES[0])
    prompts = [Prompt(ids=(1, 4, 5), most=3), Prompt(ids=(1, 4, 5), most=4)]
    plan = GenerationPlan(
        prompts,
        batch_tokens=60,
        generation_tokens=60,
        vocabulary=60,
        sharing=Sharing(),
        equal_lengths=False,
    )
    for _ in range(2):
        short, long = greedy_answers(model, plan, lambda done: None)[0]
        assert long[:3] == short
    assert all(batch.inputs.shape[0] == 1 for drafts in plan.drafts for batch in drafts.batches)
