"""lm-eval's tasks as suites, and its sample logs. lm-eval itself is an optional extra: it is
imported where a task is read or judged, never with this package."""

from __future__ import annotations

from services.lm_eval.need import need_lm_eval

__all__ = ["need_lm_eval"]
