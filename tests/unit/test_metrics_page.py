"""docs/metrics.md names every metric, every command and every key under which it stands."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from optim.compatibility import RATES
from optim.generative import TEXT_SCORES
from services.cli import cli
from services.cli.study import study
from services.spec import METRICS, Judging
from services.studies.certainty import Optimism
from services.studies.figures import Figures
from services.studies.gains import TextGains
from services.studies.judge import Comparison, Judgement
from services.studies.multiplicity import Multiplicity

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()


def test_every_metric_stands_on_the_page() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", PAGE))
    assert set(RATES) <= named
    assert set(TEXT_SCORES) <= named
    assert set(METRICS) - {"score", "macro"} <= named


def test_the_settings_of_judging_stand_in_both_pages() -> None:
    section = (ROOT / "docs/studies.md").read_text().split("## Judging")[1].split("\n## ")[0]
    assert [name for name in Judging.model_fields if f"`{name}`" not in section] == []


def test_commands_and_keys_exist() -> None:
    table = PAGE.split("## Where each stands")[1].split("```sh")[0]
    assert "study" in cli.commands
    assert {name for _, name in re.findall(r"`(remelt )?study ([a-z]+)`", table)} <= set(
        study.commands
    )
    known = {
        f.name
        for kind in (Comparison, Judgement, Multiplicity, Figures, TextGains, Optimism)
        for f in fields(kind)
    } | {"candidates", "metrics", "on_the_front", "noise_floor"}
    for key in re.findall(r"`\.?([a-z_]+)(?:\[\])?[^`]*`", table.replace("`remelt ", "`")):
        assert key in known | {"study"}, key


def test_links_lead_somewhere() -> None:
    for target, anchor in re.findall(r"\]\(([a-z]+\.md)#([a-z-]+)\)", PAGE):
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / target).read_text(), re.M)
        assert anchor in {h.lower().replace(" ", "-") for h in headings}
