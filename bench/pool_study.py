"""One whole study on a folder of checkpoints and a folder of suites, and what it cost.

    python bench/pool_study.py --pool DIR --suites DIR --reference deployed --trials 120 \
        --objectives macro --out bench/results/NAME

Runs through the same doors as every study (registry, spec, Celery workers, engine) on embedded
servers of its own, then writes NAME.json and NAME.md: the chosen candidate against every single
checkpoint, the uniform soup, the greedy soup and the reference on the sealed test split, with
intervals; seconds, candidates a minute, and peak memory of the engine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the study and write the two files."""
    options = parse()
    home = Path(tempfile.mkdtemp(prefix="remelt-bench-"))
    os.environ["REMELT_HOME"] = str(home)
    os.environ["REMELT_ENGINE_THREADS"] = str(options.threads)
    for name in ("REMELT_DATABASE_URL", "REMELT_BROKER_URL", "REMELT_STORE_URL"):
        os.environ.pop(name, None)
    from services.embedded import stop

    try:
        data = study(options, home)
    finally:
        stop(home)
        shutil.rmtree(home, ignore_errors=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(data, indent=2) + "\n")
    text = as_markdown(data)
    options.out.with_suffix(".md").write_text(text)
    print(text)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--suites", type=Path, required=True)
    parser.add_argument("--use", nargs="*", help="names of the suites to use; all by default")
    parser.add_argument("--items", type=int, help="only the first N items of each suite")
    parser.add_argument("--reference", default="deployed")
    parser.add_argument("--objectives", nargs="*", default=["macro"])
    parser.add_argument("--method", default="cma-es")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--racing", action="store_true", help="stop bad candidates early")
    parser.add_argument("--finalists", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def study(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Register, submit, work off, read."""
    from services.cli.context import open_database
    from services.cli.processes import Group
    from services.cli.stack import start_workers
    from services.cli.watch import watch
    from services.registry import add_pool
    from services.settings import settings
    from services.spec import spec_from_dict
    from services.stored_suites import add_suite
    from services.studies import read, sealed
    from services.studies.submit import submit

    database = open_database()
    folders = sorted(str(p.parent) for p in options.pool.glob("*/config.json"))
    add_pool(database, settings(), "bench", folders, reference=options.reference)
    names = []
    for file in sorted(options.suites.glob("*.jsonl")):
        if options.use and file.stem not in options.use:
            continue
        cut = home / file.name
        lines = file.read_text().strip().split("\n")[: options.items]
        cut.write_text("\n".join(lines) + "\n")
        add_suite(database, file.stem, cut)
        names.append(file.stem)
    spec = spec_from_dict(
        {
            "name": "bench",
            "pool": "bench",
            "suites": names,
            "objectives": options.objectives,
            "search": {
                "method": options.method,
                "seed": options.seed,
                "racing": {} if getattr(options, "racing", False) else None,
            },
            "budget": {"trials": options.trials, "finalists": options.finalists},
        }
    )
    group = Group(home / "logs")
    started = time.monotonic()
    start_workers(group)
    try:
        number = submit(database, spec).study
        summary = watch(database, number)
    finally:
        group.stop()
    if summary["state"] != "finished":
        raise SystemExit(f"the study {summary['state']}: {summary['failure']}")
    found = read.get_study(database, number)
    return {
        "machine": machine(options.threads),
        "wall_seconds": round(time.monotonic() - started, 1),
        "spec": spec.model_dump(mode="json"),
        "parameters": found.pool.members[0].parameters,
        "dtype": found.pool.dtype,
        "chosen": summary["chosen"],
        "cost": cost(database, number),
        "test": [line(c) for c in sealed.final_report(database, number, purpose="bench")],
        "validation": [line(c) for c in read.candidates(database, found, "validation")],
        "search_trials": summary["complete"],
        "racing": read.racing_saved(database, number),
    }


def machine(threads: int) -> str:
    """What it ran on, in words."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {threads} torch thread(s), CPU only"


def cost(database: Any, number: int) -> dict[str, Any]:
    """Totals over all evaluations of the study."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT e.split, e.cost, extract(epoch FROM e.finished_at - e.started_at)::float8 AS s "
            "FROM evaluation e JOIN trial t ON t.id = e.trial_id WHERE t.study_id = %s "
            "AND e.state = 'complete'",
            (number,),
        ).fetchall()
    seconds = sorted(r["s"] for r in rows if r["split"] == "search")
    inside = sorted(r["cost"]["seconds"] for r in rows if r["split"] == "search")
    return {
        "evaluations": len(rows),
        "median_seconds_per_candidate": round(seconds[len(seconds) // 2], 3),
        "median_engine_seconds_per_candidate": round(inside[len(inside) // 2], 3),
        "median_form_seconds": round(
            sorted(r["cost"]["phases"]["form"] for r in rows)[len(rows) // 2], 4
        ),
        "candidates_per_minute": round(60 / (sum(seconds) / len(seconds)), 1),
        "tokens": sum(r["cost"]["tokens"] for r in rows),
        "peak_memory_mib": round(max(r["cost"]["peak_memory_bytes"] for r in rows) / 2**20),
        "skipped_blocks": max(r["cost"]["skipped_blocks"] for r in rows),
        "activation_mib": round(
            max(
                r["cost"]["activation_memory_bytes"] + r["cost"]["activation_file_bytes"]
                for r in rows
            )
            / 2**20
        ),
    }


def line(candidate: Any) -> dict[str, Any]:
    """One candidate's numbers on one split."""
    overall = candidate.metrics.get("", {})
    return {
        "trial": candidate.trial.number,
        "role": candidate.trial.role,
        "label": candidate.trial.label,
        "weights": candidate.trial.weights,
        "macro": values(overall.get("macro")),
        "negative_flip_rate": values(overall.get("negative_flip_rate")),
        "churn": values(overall.get("churn")),
        "scores": {s: values(m.get("score")) for s, m in candidate.metrics.items() if s},
    }


def values(metric: Any) -> list[float] | None:
    """[value, low, high, n]."""
    if metric is None or metric.value is None:
        return None
    return [round(metric.value, 4), round(metric.low, 4), round(metric.high, 4), metric.n]


def as_markdown(data: dict[str, Any]) -> str:
    """A table: the chosen candidate first, then greedy, uniform, reference and the singles."""
    order = {"uniform": 2, "reference": 3, "single": 4}
    rows = [
        r
        for r in data["test"]
        if r["trial"] == data["chosen"] or r["role"] in ("uniform", "reference", "single")
    ]
    rows.sort(key=lambda r: (r["trial"] != data["chosen"], order.get(r["role"], 1), -r["macro"][0]))
    suites = list(rows[0]["scores"])
    out = [
        f"| on the test split | macro (95 %) | {' | '.join(suites)} | negative flips | churn |",
        "|" + "---|" * (len(suites) + 4),
    ]
    for r in rows:
        what = (
            f"**chosen** (trial {r['trial']}, {r['role']})"
            if r["trial"] == data["chosen"]
            else (r["label"] + (" (reference)" if r["role"] == "reference" else ""))
        )
        scores = " | ".join(f"{r['scores'][s][0]:.3f}" for s in suites)
        macro = f"{r['macro'][0]:.3f} [{r['macro'][1]:.3f}, {r['macro'][2]:.3f}]"
        flips, churn = r["negative_flip_rate"][0], r["churn"][0]
        out.append(f"| {what} | {macro} | {scores} | {flips:.3f} | {churn:.3f} |")
    c = data["cost"]
    out += [
        "",
        f"{data['search_trials']} candidates on the search split, {c['evaluations']} evaluations "
        f"in all, {data['wall_seconds']:.0f} s from submission to the end; median "
        f"{c['median_seconds_per_candidate']:.2f} s a candidate "
        f"({c['median_engine_seconds_per_candidate']:.2f} s in the engine, of it "
        f"{c['median_form_seconds'] * 1000:.1f} ms forming); peak memory of the engine "
        f"{c['peak_memory_mib']} MiB; lower blocks run once for all candidates: "
        f"{c['skipped_blocks']} ({c['activation_mib']} MiB kept). "
        f"{data['parameters']:,} parameters, {data['dtype']}; "
        f"{data['machine']}.",
        "",
    ]
    return "\n".join(out)


if __name__ == "__main__":
    main()
