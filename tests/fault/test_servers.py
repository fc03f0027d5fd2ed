"""Servers that restart and rows that change under a running study."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services import stored_suites
from services.embedded.postgres import ensure_postgres, stop_postgres
from services.studies import read

if TYPE_CHECKING:
    from tests.plugins.invariants import AssertInvariants
    from tests.plugins.stack import Stack


def test_postgres_restarts_midway(
    stack: Stack, slow: str, midway: Callable[..., int], assert_invariants: AssertInvariants
) -> None:
    study = stack.submit(slow)
    midway(stack, study)
    stop_postgres(stack.config.home)
    assert stack.config.database_url is not None
    assert ensure_postgres(stack.config.home) == stack.config.database_url.get_secret_value()
    assert stack.finished(study) == "finished"
    assert_invariants(stack.database, study, stack.config)


def test_suite_changed_under_a_running_study(
    stack: Stack, quick: str, tmp_path: Path, assert_invariants: AssertInvariants
) -> None:
    items = [
        {"id": f"{i}", "context": "a =", "choices": [" b", " c"], "gold": 0} for i in range(40)
    ]
    file = tmp_path / "soft.jsonl"
    file.write_text("\n".join(json.dumps(item) for item in items))
    stored_suites.add_suite(stack.database, "soft", file)
    study = stack.submit(quick.replace("pick, say", "soft").replace("trials: 1", "trials: 40"))
    complete = (
        "SELECT e.id FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE t.study_id = %s AND e.state = 'complete'"
    )
    stack.wait(lambda: len(stack.sql(complete, study)) >= 4, "it runs")
    changed = file.read_text().replace('"gold": 0', '"gold": 1')
    stack.sql("UPDATE suite SET content = %s WHERE name = 'soft'", zlib.compress(changed.encode()))
    assert stack.finished(study) == "failed"
    failure = read.study_summary(stack.database, study)["failure"]
    assert "its stored items do not match its digest" in failure
    refused: list[dict[str, Any]] = stack.sql(
        "SELECT DISTINCT e.attempt, e.error FROM evaluation e JOIN trial t ON t.id = e.trial_id "
        "WHERE t.study_id = %s AND e.state = 'failed'",
        study,
    )
    # refused at the first try, and nothing was scored on other items
    assert [r["attempt"] for r in refused] == [1]
    assert refused[0]["error"].startswith("suite soft: ")
    assert_invariants(stack.database, study, stack.config)
