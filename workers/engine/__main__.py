"""One rank of the engine: `python -m workers.engine --fd N --parent PID …`, started by `client`.

Ties its life to its parent's before it imports anything heavy, so that no orphan keeps a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the channel given by `--fd` until its other end is closed."""
    options = _options()
    if options.die_with_parent and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent:
        sys.exit("the process that started this engine is gone")
    if options.world != 1 or options.rank != 0:
        sys.exit(f"rank {options.rank} of {options.world}: this release runs one rank")

    import torch

    torch.set_num_threads(options.threads)
    from workers.engine.channel import Channel
    from workers.engine.server import Server

    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    server = Server(
        Channel(socket.socket(fileno=options.fd)),
        device=torch.device("cuda:0" if cuda else "cpu"),
        compute=options.compute,
        batch_tokens=options.batch_tokens,
        parent=options.parent,
        tier=None if options.pool_tier == "auto" else options.pool_tier,
    )
    server.serve()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.engine", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited end of a socket pair")
    parser.add_argument("--parent", type=int, required=True, help="process to die with")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="also by the kernel's signal"
    )
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compute", choices=("auto", "storage", "float32"), default="auto")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--pool-tier", choices=("auto", "device", "host", "mapped"), default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
