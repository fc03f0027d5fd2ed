"""Puts all results into docs/performance.md, and the curves into charts in docs/img.

    python bench/table.py

Reads every bench/results/*.json that holds rows. What stands in docs/performance.md outside of the
two marked lines is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
CHART = ROOT / "docs/img/cost_curves.svg"
SEARCHES = ROOT / "docs/img/search_curves.svg"
#: colours that colour-blind readers can tell apart (Okabe & Ito), in the order of the results
COLOURS = ("#999999", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#000000")
START, END = "<!-- rows: made by bench/table.py -->", "<!-- end of rows -->"
AXES = {
    "parents": "parents of a candidate (1M parameters each)",
    "parameters": "parameters (8 parents)",
    "items": "items of a suite",
    "trials": "trials of a study",
}


def main() -> None:
    """Rewrite the table and the chart."""
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[dict[str, float]]] = {}
    for file in sorted((ROOT / "bench/results").glob("*.json")):
        data = json.loads(file.read_text())
        if isinstance(data, dict) and "rows" in data:
            rows += data["rows"]
            curves |= data.get("curves", {})
    text = PAGE.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{table(rows)}\n{END}{after}")
    draw(curves)
    draw_searches({name: points for name, points in curves.items() if ": " in name})


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: goals beside measured values."""
    lines = ["| what | measured | goal | |", "|---|---|---|---|"]
    for row in rows:
        met = {True: "met", False: "**missed**", None: ""}[row["met"]]
        value = f"{row['value']:g} {row['unit']}"
        lines.append(f"| {row['name']} | {value} | {row['goal'] or ''} | {met} |")
    machines = sorted({f"{row['machine']} ({row['date']})" for row in rows})
    return "\n".join([*lines, "", "Measured on: " + "; ".join(machines) + ".", ""])


def draw(curves: dict[str, list[dict[str, float]]]) -> None:
    """One panel a curve, both axes logarithmic, a line of slope 1 beside each."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(AXES), figsize=(14, 3.4), layout="constrained")
    for panel, (name, label) in zip(panels, AXES.items(), strict=True):
        points = curves.get(name, [])
        x, y = [p["x"] for p in points], [p["seconds"] for p in points]
        panel.loglog(x, y, "o-", color="#0072B2", label="measured")
        if points:
            panel.loglog(x, [y[-1] * v / x[-1] for v in x], ":", color="#999999", label="slope 1")
        panel.set(xlabel=label, ylabel="seconds", title=f"cost against {name}")
        panel.grid(True, which="major", alpha=0.3)
        panel.legend(frameon=False)
    CHART.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(CHART, metadata={"Date": None})


def draw_searches(curves: dict[str, list[dict[str, float]]]) -> None:
    """One panel a testbed: hypervolume against evaluations, as a share of the target."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    beds = list(dict.fromkeys(name.split(": ")[0] for name in curves))
    methods = list(dict.fromkeys(name.split(": ")[1] for name in curves))
    if not beds:
        return
    figure, panels = plt.subplots(
        1, len(beds), figsize=(4.7 * len(beds), 4), layout="constrained", squeeze=False
    )
    for panel, bed in zip(panels[0], beds, strict=True):
        for method, colour in zip(methods, COLOURS * 2, strict=False):
            points = curves.get(f"{bed}: {method}", [])
            wide = 2.2 if "surrogate" in method else 1.2
            x, y = [p["x"] for p in points], [p["share"] for p in points]
            panel.plot(x, y, color=colour, label=method, linewidth=wide)
        panel.axhline(1.0, color="#000000", linestyle=":", linewidth=0.8)
        panel.set(xlabel="evaluations after the baselines", title=bed, ylim=(0, None))
        panel.grid(True, alpha=0.3)
    panels[0][0].set_ylabel("hypervolume, share of the target")
    panels[0][-1].legend(frameon=False, fontsize=8)
    figure.savefig(SEARCHES, metadata={"Date": None})


if __name__ == "__main__":
    main()
