"""Which memory a pool's checkpoints live in: a plan from sizes and from what is free.

Decides and explains, moves nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

#: share of a device's free memory that pool and buffers may fill; the rest is for activations
DEVICE_SHARE, HOST_SHARE = 0.7, 0.5

#: `device`: beside the model; `host`: in this process's memory, pinned where a GPU reads it;
#: `mapped`: the checkpoint's own files, one copy in the page cache for all workers of a machine
Tier = Literal["device", "host", "mapped"]
TIERS: tuple[Tier, ...] = ("device", "host", "mapped")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A tier, and in one line for people what was chosen and why."""

    tier: Tier
    reason: str

    def __str__(self) -> str:
        return f"{self.tier}: {self.reason}"


def plan_tier(
    device: torch.device,
    *,
    pool_bytes: int,
    buffer_bytes: int,
    ranks: int = 1,
    told: Tier | None = None,
) -> Plan:
    """The fastest tier that holds `pool_bytes` beside the model's own `buffer_bytes`.

    `ranks` processes share the machine's memory, each has a device of its own. `told` overrules the
    choice. On a CPU the tier `device` is `host`, because they are one memory.
    """
    sizes = f"pool {_size(pool_bytes)}, model {_size(buffer_bytes)}"
    if told is not None:
        tier: Tier = "host" if told == "device" and device.type == "cpu" else told
        return Plan(tier=tier, reason=f"as told ({sizes})")
    free = available_memory() // ranks
    if device.type == "cpu":
        # measured: as fast as memory of the process's own, once the pages are in the cache
        reason = "on a CPU the files are as fast as a copy, and shared by all workers"
        fits = pool_bytes + buffer_bytes <= free
        few = "" if fits else ": too little, so the disk is read again and again"
        return Plan(tier="mapped", reason=f"{reason} ({sizes}, {_size(free)} free{few})")
    spare, _ = torch.cuda.mem_get_info(device)
    room = f"{DEVICE_SHARE:.0%} of {_size(spare)} free on the device"
    if pool_bytes + buffer_bytes <= DEVICE_SHARE * spare:
        return Plan(tier="device", reason=f"{sizes} fit into {room}")
    reason = f"{sizes} do not fit into {room}; the pool"
    room = f"{HOST_SHARE:.0%} of {_size(free)} free in memory"
    if pool_bytes <= HOST_SHARE * free:
        return Plan(tier="host", reason=f"{reason} fits into {room}")
    return Plan(tier="mapped", reason=f"{reason} does not fit into {room} either")


def available_memory() -> int:
    """Bytes that this process may still take: what the machine has and the container allows."""
    bound = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        bound = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        bound = min(bound, int(limit.read_text()) - int(used.read_text()))
    return max(bound, 0)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
