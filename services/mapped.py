"""A checkpoint's tensors as memory: the files' own pages, read-only, shared by all processes.

Imports torch inside its functions only.
"""

from __future__ import annotations

import mmap
import os
import warnings
from typing import TYPE_CHECKING

from services.checkpoints import Checkpoint
from services.checkpoints.files import open_regular
from services.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor


def map_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor in its shape, by name; nothing may write to them.

    Raises IntegrityError when a file is shorter than its header says. A file that is shortened
    later ends the process with SIGBUS when the missing part is read.
    """
    import torch

    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    files: dict[str, Tensor] = {}
    tensors = {}
    for info in checkpoint.tensors.values():
        if info.file not in files:
            files[info.file] = _pages(checkpoint, info.file)
        raw, dtype = files[info.file][info.start : info.end], dtypes[info.dtype]
        # a view needs an aligned start, which the format does not promise
        aligned = info.start % dtype.itemsize == 0
        tensors[info.name] = (raw if aligned else raw.clone()).view(dtype).view(info.shape)
    return tensors


def _pages(checkpoint: Checkpoint, name: str) -> Tensor:
    import torch

    path = checkpoint.path / name
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size < checkpoint.files[name].bytes:
            raise IntegrityError(
                "is cut short", where=str(path), mend="Restore the file from its source"
            )
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        # nothing writes to a parent
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(pages, dtype=torch.uint8)
