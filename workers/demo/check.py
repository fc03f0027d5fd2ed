"""Does a pulled checkpoint answer as it did in the study? Asked of plain transformers.

Deliberately shares nothing with the engine: one item at a time, no batching, no merging, so that
agreement says something about both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from optim.predictions import Predictions, answer_hash
from services import stored_suites
from services.cli.context import open_database
from services.cli.output import progress_bar
from services.db import rows
from services.studies import read
from services.studies.record import load_predictions
from services.suites import Item

#: items of each suite that are asked again
ITEMS_PER_SUITE = 60
#: answers may differ where two options are closer than this (nats)
TIE = 1e-3


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit 1 when an answer differs from the stored one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=int)
    parser.add_argument("trial", type=int)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    database = open_database()
    study = read.get_study(database, options.study)
    with database.transaction() as connection:
        trial = read.candidates_on(connection, study, "validation")
        chosen = next(c.trial for c in trial if c.trial.number == options.trial)
        stored = load_predictions(connection, study, chosen.id, "validation")
        suites = rows(connection, "studies.suites_with_content", study=study.id)
    asked = same = 0
    with progress_bar() as bar:
        for suite in map(stored_suites.suite_from_row, suites):
            if suite.form == "text":
                continue
            items = suite.split("validation")[:ITEMS_PER_SUITE]
            for index, item in enumerate(bar.track(items, description=f"asking {suite.name}")):
                asked += 1
                same += agrees(model, tokenizer, item, stored[suite.name], index)
    Console(stderr=True).print(
        f"transformers gives {same} of {asked} answers as the study stored them", highlight=False
    )
    if same < asked:
        sys.exit(1)


@torch.inference_mode()
def agrees(model: Any, tokenizer: Any, item: Item, stored: Predictions, index: int) -> bool:
    """Whether one answer equals the stored one (near ties excused)."""
    assert stored.answer is not None
    if not item.choices:
        prompt = tokenizer(item.prompt, return_tensors="pt")["input_ids"]
        whole = tokenizer(item.prompt + item.target)["input_ids"]
        most = max(len(whole) - prompt.shape[1], 1) + 2
        mask = torch.ones_like(prompt)
        out = model.generate(prompt, attention_mask=mask, max_new_tokens=most, do_sample=False)
        text = tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
        answer = text.strip().split("\n")[0]
        return answer_hash(answer) == int(stored.answer[index])
    context = len(tokenizer(item.context)["input_ids"])
    scores = []
    for choice in item.choices:
        ids = tokenizer(item.context + choice, return_tensors="pt")["input_ids"]
        logits = model(ids).logits[0, :-1].double().log_softmax(-1)
        picked = logits.gather(1, ids[0, 1:, None])[context - 1 :]
        scores.append(float(picked.sum()))
    given = int(stored.answer[index])
    return scores[given] >= max(scores) - TIE


if __name__ == "__main__":
    main()
