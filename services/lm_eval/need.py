"""Finding lm-eval, quietly, or saying what to install."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec

from services.errors import BadInput


def need_lm_eval(what: str) -> None:
    """Raise BadInput, naming the extra, where lm-eval is not installed; else quieten it.

    Call it before the first import of `lm_eval` in a process.
    """
    try:
        found = find_spec("lm_eval") is not None
    except ValueError:  # somebody has set its module to None, which forbids importing it
        found = False
    if not found:
        raise BadInput(
            "lm-eval is not installed", where=what, mend="Install it: pip install 'remelt[lm-eval]'"
        )
    # its bars and hints would stand between our lines
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
