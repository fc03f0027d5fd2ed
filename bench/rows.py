"""What a bench finds: rows of name, value, unit, goal, met, machine and date, in one JSON file."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


class Rows:
    """Collects the rows of one bench and prints them as they come."""

    def __init__(self, bench: str, *, threads: int = 1, device: str = "CPU only") -> None:
        self.bench, self.rows = bench, list[dict[str, Any]]()
        #: what `bench/table.py` draws: points {x, seconds} by what x counts
        self.curves: dict[str, list[dict[str, float]]] = {}
        self.machine = (
            f"{platform.machine()}, {os.cpu_count()} cores, {threads} thread(s), {device}"
        )

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        note: str | None = None,
    ) -> None:
        """One figure; with a bound it is a goal, met or missed."""
        goal, met = None, None
        if at_least is not None:
            goal, met = f"≥ {at_least:g}", bool(value >= at_least)
        elif at_most is not None:
            goal, met = f"≤ {at_most:g}", bool(value <= at_most)
        row = {
            "name": f"{self.bench}: {name}", "value": float(f"{value:.4g}"), "unit": unit,
            "goal": goal, "met": met, "machine": self.machine,
            "date": datetime.date.today().isoformat(),
        }  # fmt: skip
        self.rows.append(row | ({"note": note} if note else {}))
        mark = {None: "", True: f"  (goal {goal}: met)", False: f"  (goal {goal}: MISSED)"}[met]
        print(f"{row['name']}: {row['value']:g} {unit}{mark}", flush=True)

    def write(self, out: Path | None = None) -> None:
        """Put them into bench/results/BENCH.json, or `out`."""
        out = out or RESULTS / f"{self.bench}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        data = {"rows": self.rows, "curves": self.curves}
        out.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def processor() -> str:
    """The processor's name, or what is known of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
