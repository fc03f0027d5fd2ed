"""`python -m workers.demo DIR`: makes the demo pool and suites in DIR, or finds them there."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging

from services.cli.output import progress_bar
from services.errors import RemeltError
from workers.demo.build import build
from workers.demo.plan import Plan, Stage, demo_plan


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing; errors become one line and an exit code."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    plan = demo_plan(options.seed)
    if options.steps:
        plan = plan.scaled(options.steps)
    console = Console(stderr=True)
    started = time.monotonic()
    try:
        # where accelerate is installed, transformers imports DeepSpeed, which logs to stdout
        with contextlib.redirect_stdout(sys.stderr):
            manifest = show(console, options.out, plan, options.seconds)
    except RemeltError as error:
        console.print(f"remelt: {error.line()}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)
    if options.as_json:
        sys.stdout.write(json.dumps(manifest, indent=2) + "\n")
    console.print(
        f"demo pool: {len(manifest['pool'])} checkpoints, {len(manifest['suites'])} suites "
        f"in {options.out} ({time.monotonic() - started:.0f} s)",
        highlight=False,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m workers.demo", description=__doc__)
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of the demo")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the manifest")
    parser.add_argument(
        "--seconds", type=float, default=165, help="stages are cut short beyond this (165)"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same pool (0)")
    parser.add_argument("--steps", type=int, help="steps of the first stage; branches follow suit")
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch threads (2)"
    )
    options = parser.parse_args(arguments)
    for name in ("seconds", "threads"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be above 0")
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be 1 or more")
    return options


def show(console: Console, out: Path, plan: Plan, seconds: float) -> dict[str, Any]:
    """Build with a bar over all steps; off a terminal, one line when a stage is over."""
    with progress_bar() as bar:
        task = bar.add_task(
            "training the demo pool", total=sum(stage.steps for stage in plan.stages)
        )
        before, sofar = {}, 0
        for stage in plan.stages:
            before[stage.name] = sofar
            sofar += stage.steps

        def step(stage: Stage, done: int, over: float) -> None:
            completed = before[stage.name] + over * stage.steps
            bar.update(task, completed=round(completed), description=f"training {stage.name}")
            if over == 1 and not console.is_terminal:
                console.print(f"trained {stage.name}: {done} steps", highlight=False)

        manifest = build(out, plan, seconds=seconds, on_step=step)
        bar.update(task, completed=sofar, description="trained the demo pool")
    return manifest


if __name__ == "__main__":
    main()
