"""The engine: a process group that keeps a pool of checkpoints resident and scores candidates.

`client` is the side that the Celery worker imports, and it never imports torch; everything else
runs inside the engine's own processes.
"""
