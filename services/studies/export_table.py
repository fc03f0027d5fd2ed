"""A study's trials as one table: CSV for spreadsheets, Parquet for programs."""

from __future__ import annotations

import csv
import io
from typing import Any

from services.db import Database
from services.studies import read
from services.studies.record import Study
from services.studies.space import labels_of

#: cells that a spreadsheet would take for a formula
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")
HEAD = ("trial", "role", "label", "state", "split", "rank", "feasible")


def csv_text(database: Database, study: Study) -> str:
    """One line a trial; texts that a spreadsheet would run are neutralised."""
    names, found = table(database, study)
    out = io.StringIO()
    # quoted: a lone carriage return in a text would end the line for some readers
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(map(neutral, names))
    for line in found:
        cells = ("" if v is None else v for v in line)
        writer.writerow([neutral(v) if isinstance(v, str) else v for v in cells])
    return out.getvalue()


def parquet_bytes(database: Database, study: Study) -> bytes:
    """The same table with its types; what is not known is null."""
    import pandas as pd

    names, found = table(database, study)
    frame = pd.DataFrame(found, columns=names)
    for name in names[len(HEAD) :]:
        frame[name] = frame[name].astype("float64")
    frame = frame.astype({"rank": "Int64", "feasible": "boolean"})
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def table(database: Database, study: Study) -> tuple[list[str], list[list[Any]]]:
    """(columns, one row a trial by number): metrics on the search split, then weights."""
    labels = labels_of(study)
    weights = [
        f"weight:{name}:{label}" if label else f"weight:{name}"
        for label in labels
        for name in study.pool.names
    ]
    found = read.candidates(database, study, "search")
    metrics = sorted({(s, m) for c in found for s, by in c.metrics.items() for m in by})
    lines = []
    for c in found:
        values = [c.metrics.get(s, {}).get(m) for s, m in metrics]
        trial = c.trial
        lines.append(
            [
                trial.number, trial.role, trial.label, trial.state, c.split, trial.rank,
                None if trial.objectives is None else c.feasible,
                *(None if v is None else v.value for v in values), *trial.weights,
            ]
        )  # fmt: skip
    return [*HEAD, *(f"{s or 'all'}:{m}" for s, m in metrics), *weights], lines


def neutral(cell: str) -> str:
    """Text that no spreadsheet runs as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_MARKS) else cell
