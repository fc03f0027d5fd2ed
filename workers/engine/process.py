"""The engine's processes as the operating system sees them: started, named, ended.

Each engine is a process group of its own that holds one end of a socket pair and dies with the
process that started it. Never imports torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal

from services.settings import Settings
from workers.engine.channel import Channel

#: folder that holds the import packages
ROOT = Path(__file__).resolve().parents[2]
#: how long a killed process may take to be gone
KILL_SECONDS = 5.0

#: `auto`: float32 on a CPU, the stored dtype on a GPU
Compute = Literal["auto", "storage", "float32", "bfloat16"]


def start_group(
    config: Settings, compute: Compute, log_path: Path, *, plain: bool = False
) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start rank 0 in a new process group, which the other ranks will join; all write to the end of
    `log_path`. `plain`: nothing is computed once for several rows or candidates."""
    mine, theirs = socket.socketpair()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    spill = config.home.resolve() / "activations"
    spill.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "workers.engine"),
        *("--fd", str(theirs.fileno()), "--parent", str(os.getpid())),
        *("--rank", "0", "--world", str(config.engine_ranks)),
        *("--parallel", config.engine_parallel),
        *("--device", config.engine_device, "--threads", str(config.engine_threads)),
        *("--compute", compute, "--batch-tokens", str(config.batch_tokens)),
        *("--pool-tier", config.pool_tier, *(["--compile"] if config.engine_compile else [])),
        *("--activation-bytes", str(config.activation_bytes), "--activation-folder", str(spill)),
    ]
    if plain:
        command.append("--plain")
    if threading.current_thread() is threading.main_thread():
        # the kernel's signal follows the death of the thread that started the engine
        command.append("--die-with-parent")
    with log_path.open("ab") as log, theirs:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(config),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, Channel(mine, send_timeout=config.engine_hang_seconds)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End every process of the group at once; the group may outlive its leader."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


def exit_name(code: int) -> str:
    """How a process ended, for people: `SIGKILL`, `exit code 1`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _environment(settings: Settings) -> dict[str, str]:
    """This process's environment without the secrets that the engine does not need."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("REMELT_", "AWS_", "PG"))}
    kernels = settings.home.resolve() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    kernels.chmod(0o700)
    env |= {
        # compiled layers are code: never from a folder that others may write to, as is usual
        "TORCHINDUCTOR_CACHE_DIR": str(kernels),
        # in the engine itself: no process but the ranks
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(settings.engine_threads),
        "MKL_NUM_THREADS": str(settings.engine_threads),
        # threads that spin while they wait made evaluations 20 times slower on a busy machine
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if settings.engine_device == "cpu":
        env["DS_ACCELERATOR"] = "cpu"
    return env
