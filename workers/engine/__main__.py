"""One rank of the engine: `python -m workers.engine --fd N --parent PID …`.

Rank 0 is started by `client` and starts the other ranks. Every rank ties its life to its parent's
before it imports anything heavy, so that no orphan keeps a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import get_args

from workers.engine.channel import Channel
from workers.engine.group import Group, open_meeting, start_others, watch
from workers.engine.process import Compute

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the channel given by `--fd` until its other end is closed."""
    options = _options()
    if options.die_with_parent and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent:
        sys.exit("the process that started this rank is gone")
    above = Channel(socket.socket(fileno=options.fd))
    if options.rank == 0:
        meeting = open_meeting()
        below, children = start_others(options.world, meeting)
        group = Group(0, options.world, below)
    else:
        meeting, children = options.meeting, []
        group = Group(options.rank, options.world, [above])

    import torch

    torch.set_num_threads(options.threads)
    from workers.engine.lower import Activations
    from workers.engine.server import Server
    from workers.engine.session import Session

    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    session = Session(above if options.rank == 0 else None, group, parent=options.parent)
    server = Server(
        session,
        device=torch.device("cuda", options.rank) if cuda else torch.device("cpu"),
        compute=options.compute,
        batch_tokens=options.batch_tokens,
        plain=options.plain,
        compiling=options.compile,
        parallel=options.parallel,
        meeting=meeting,
        tier=None if options.pool_tier == "auto" else options.pool_tier,
        activations=Activations(
            options.activation_bytes,
            options.activation_folder,
            # a full disk would leave the ranks with different activations
            spill=options.world == 1,
        ),
    )
    watch(children, session.rank_ended)
    session.serve(server.begin, server.answer)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.engine", description=__doc__)
    parser.add_argument(
        "--fd", type=int, required=True, help="inherited socket: of the client, or of rank 0"
    )
    parser.add_argument("--parent", type=int, required=True, help="process to die with")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="also by the kernel's signal"
    )
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--meeting", type=int, help="inherited file where the ranks meet")
    parser.add_argument("--parallel", default="auto")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compute", choices=get_args(Compute), default="auto")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--plain", action="store_true", help="share nothing, skip nothing")
    parser.add_argument("--pool-tier", choices=("auto", "device", "host", "mapped"), default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--activation-bytes", type=int, default=4 * 2**30)
    parser.add_argument("--activation-folder", type=Path, help="default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
