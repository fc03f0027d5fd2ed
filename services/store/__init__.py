"""The object store: where finished artefacts are published and where users' checkpoints lie.

A directory or an S3 bucket behind one contract (`Store`). Endpoints and keys come from settings
only; what a user may name is a bucket of the allow-list and a prefix in it.
"""

from services.store.base import Entry, Progress, Store
from services.store.directory import DirectoryStore
from services.store.fetch import fetch_checkpoint
from services.store.transfer import artefact_files, publish_checkpoint, pull_checkpoint
from services.store.urls import allowed_buckets, open_store

__all__ = [
    "DirectoryStore",
    "Entry",
    "Progress",
    "Store",
    "allowed_buckets",
    "artefact_files",
    "fetch_checkpoint",
    "open_store",
    "publish_checkpoint",
    "pull_checkpoint",
]
