"""Searches that use gradients: coefficients of a linear combination that go downhill on a loss.

Pure numerics. `methods`, `job`, `blocks`, `adam` and `spread` are numpy and plain Python; `losses`
and `reduce` are torch, which is why nothing here imports them.
"""

from optim.descent.adam import State
from optim.descent.job import Job, Task
from optim.descent.methods import DESCENTS, DescentMethod

__all__ = ["DESCENTS", "DescentMethod", "Job", "State", "Task"]
