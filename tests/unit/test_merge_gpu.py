"""The GPU kernel proves itself: on a GPU where there is one, else in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version

from optim.merge import linear_
from optim.steps import form_by_steps, terms_of

PROOF = """
import torch
from optim.gpu import proved
print(all(proved(torch.device("cpu"), d) for d in (torch.float32, torch.bfloat16, torch.float16)))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_in_the_interpreter() -> None:
    if Version(version("triton")) < Version("3.7") and Version(version("numpy")) >= Version("2.4"):
        pytest.skip("no loops with NumPy 2.4 in Triton's interpreter before 3.7: triton#9171")
    done = subprocess.run(
        [sys.executable, "-c", PROOF],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_the_bytes_of_a_cpu(dtype: torch.dtype) -> None:
    parents = [torch.randn(100_003).to(dtype) for _ in range(5)]
    weights = [0.1, 0.2, 0.3, 0.15, 0.25]
    here, there = torch.empty_like(parents[0]), torch.empty_like(parents[0], device="cuda")
    form_by_steps([here], parents, [terms_of(tuple(weights))], slice(0, 100_003), 2**16)
    linear_(there, [parent.cuda() for parent in parents], weights)
    assert torch.equal(here, there.cpu())
