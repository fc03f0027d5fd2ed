"""What a pool's checkpoints have in common, in words. Pure."""

from __future__ import annotations

from services.pool_report import PoolReport
from ui import words


def lines(report: PoolReport) -> str:
    """A Markdown list."""
    dtypes = " and ".join(report.dtypes)
    kinds = "one dtype" if len(report.dtypes) == 1 else "mixed, candidates are float32"
    config = (
        "the same configuration"
        if not report.config_differs
        else f"configurations differ in {words.plain(', '.join(report.config_differs))}"
    )
    tokenizer = (
        "the same tokenizer files"
        if report.same_tokenizer
        else "tokenizer files differ (the vocabulary is the same)"
    )
    shared = (
        f"{report.shared_weight_files} of {report.weight_files} weight files are byte for byte "
        "those of another checkpoint"
        if report.shared_weight_files
        else "no two weight files are the same"
    )
    size = f"{report.bytes / 1e9:.1f} GB" if report.bytes >= 1e9 else f"{report.bytes / 1e6:.1f} MB"
    return f"- {dtypes} ({kinds}), {size} in all\n- {tokenizer}, {config}\n- {shared}"
