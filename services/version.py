"""Which code made a row: the release, and the commit when it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path


@lru_cache(maxsize=1)
def code_version() -> str:
    """Such as `0.1.0` or `0.1.0+g1a2b3c4d`."""
    release = version("remelt")
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return release
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short=8", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{release}+g{found.stdout.strip()}" if found.returncode == 0 else release
