"""Checkpoints as files: what belongs to one, whether it may be used, and its digest.

Reads safetensors headers and JSON only, values through numpy; never imports torch, never runs or
unpickles anything that came with a checkpoint.
"""

from services.checkpoints.files import (
    FileInfo,
    belonging_files,
    files_digest,
    hash_file,
    manifest_text,
    parse_manifest,
    verify_digest,
)
from services.checkpoints.headers import TensorInfo, read_tensors
from services.checkpoints.mergeable import check_mergeable
from services.checkpoints.read import Checkpoint, read_checkpoint
from services.checkpoints.remembered import Remembered

__all__ = [
    "Checkpoint",
    "FileInfo",
    "Remembered",
    "TensorInfo",
    "belonging_files",
    "check_mergeable",
    "files_digest",
    "hash_file",
    "manifest_text",
    "parse_manifest",
    "read_checkpoint",
    "read_tensors",
    "verify_digest",
]
