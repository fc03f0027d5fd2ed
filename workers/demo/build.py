"""Writes the demo pool: checkpoints in Hugging Face layout, suites, and the manifest last.

A checkpoint folder appears under its name only when it is complete, and names the plan it was made
by, so an interrupted run goes on where it stopped and a complete one is only read.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from workers.demo.data import Corpus, load_corpus, package_versions, suite_text
from workers.demo.plan import EARLY, REFERENCE, Plan, Stage
from workers.demo.tokenizer import train_tokenizer
from workers.demo.train import new_model, train_stage

MANIFEST = "demo.json"
PROVENANCE = "provenance.json"
#: every file of a checkpoint folder
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    PROVENANCE,
)
#: names of files and folders still being written begin with it
PARTIAL = ".partial-"

#: stage, steps done, share of the stage that is over (1 at its end)
OnStep = Callable[[Stage, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Where one demo lives, and the digest of the plan and data it must have been made by."""

    path: Path
    plan: str

    def checkpoint(self, name: str) -> Path:
        """The folder of a checkpoint, whether it is there or not."""
        return self.path / "pool" / name

    def has(self, name: str) -> bool:
        """Whether the checkpoint is complete and of this plan."""
        folder = self.checkpoint(name)
        return all((folder / file).is_file() for file in FILES) and _plan_of(folder) == self.plan

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, if everything it names is there and of this plan."""
        path = self.path / MANIFEST
        if not path.is_file():
            return None
        manifest: dict[str, Any] = json.loads(path.read_text())
        whole = (
            manifest["plan"] == self.plan
            and all(self.has(name) for name in manifest["pool"])
            and all((self.path / file).is_file() for file in manifest["suites"].values())
        )
        return manifest if whole else None

    def clear_others(self) -> None:
        """Remove the manifest, half-written folders and checkpoints of another plan; only ours."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        for folder in (self.path / "pool").glob("*"):
            ours = folder.name.startswith(PARTIAL) or _plan_of(folder) not in (None, self.plan)
            if ours and folder.is_dir():
                shutil.rmtree(folder)


def _plan_of(folder: Path) -> str | None:
    """The plan a checkpoint says it was made by; None for a folder that is not a demo's."""
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    plan = json.loads(path.read_text()).get("plan")
    return plan if isinstance(plan, str) else None


def build(path: Path, plan: Plan, *, seconds: float, on_step: OnStep) -> dict[str, Any]:
    """Makes what is missing of the demo in `path` and returns its manifest.

    `seconds` bounds the whole call: each stage may take its share of what is left, and a stage
    that is cut short says so in its provenance. Raises NotFound without the data packages.
    """
    deadline = time.monotonic() + seconds
    versions = package_versions()
    demo = Demo(path=path, plan=plan.digest(versions))
    if (manifest := demo.manifest()) is not None:
        return manifest
    demo.clear_others()
    corpus = load_corpus()
    tokenizer = train_tokenizer(
        example.prompt + example.answer
        for part in (corpus.train, corpus.held_out)
        for examples in part.values()
        for example in examples
    )
    suites = _write_suites(path, corpus)
    left = [stage for stage in plan.stages if not _is_done(demo, stage)]
    while left:
        share = left[0].steps / sum(stage.steps for stage in left)
        limit = max(0.1, (deadline - time.monotonic()) * share)
        _make(demo, plan, left.pop(0), tokenizer, corpus, limit, on_step)
    names = [REFERENCE, EARLY, *(stage.name for stage in plan.stages[1:])]
    manifest = {
        "reference": REFERENCE,
        "pool": {name: f"pool/{name}" for name in names},
        "suites": suites,
        "versions": versions | {name: version(name) for name in ("torch", "transformers")},
        "plan": demo.plan,
    }
    _write(path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def _is_done(demo: Demo, stage: Stage) -> bool:
    return demo.has(stage.name) and (stage.parent is not None or demo.has(EARLY))


def _make(
    demo: Demo,
    plan: Plan,
    stage: Stage,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    seconds: float,
    on_step: OnStep,
) -> None:
    """Train one stage and write its checkpoint, and the early snapshot on the first stage's way."""
    started = time.monotonic()
    if stage.parent is None:
        model = new_model(plan, tokenizer, stage.seed)
    else:
        model = LlamaForCausalLM.from_pretrained(demo.checkpoint(stage.parent))
    early_due = stage.parent is None

    def save(name: str, steps: int) -> None:
        taken = round(time.monotonic() - started, 1)
        said = asdict(stage) | {"name": name, "steps": steps, "seconds": taken}
        if name == stage.name:
            said["planned_steps"] = stage.steps
        _save(demo, name, model, tokenizer, said | {"plan": demo.plan})

    def stepped(step: int, over: float) -> None:
        nonlocal early_due
        if early_due and over >= plan.early:
            early_due = False
            save(EARLY, step)
        on_step(stage, step, over)

    steps = train_stage(
        model,
        tokenizer,
        corpus.train,
        stage,
        batch=plan.batch,
        seconds=seconds,
        on_step=stepped,
    )
    save(stage.name, steps)


def _save(
    demo: Demo,
    name: str,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    provenance: Mapping[str, Any],
) -> None:
    """Write a checkpoint under a name of its own, then give it its place in one rename."""
    folder = demo.checkpoint(name)
    partial = folder.with_name(f"{PARTIAL}{name}-{uuid.uuid4().hex[:8]}")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    _write(partial / PROVENANCE, json.dumps(provenance, indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def _write_suites(path: Path, corpus: Corpus) -> dict[str, str]:
    """One file per task; returns suite -> file relative to the demo."""
    files = {}
    for name, examples in corpus.held_out.items():
        files[name] = f"suites/{name}.jsonl"
        _write(path / files[name], suite_text(examples))
    return files


def _write(path: Path, text: str) -> None:
    """Write a file in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{path.name}-{uuid.uuid4().hex[:8]}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
