"""How much memory a device has left, and how much of the host's memory this process uses."""

import resource
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
"""Kinds of memory that count towards a container's use, but are freed when memory is needed."""
_GPU_RESERVE_BYTES = 2**29
"""Part of a GPU's free memory reserved for libraries' workspaces, graphs and the allocator's
rounding: an allowance, not a measurement."""


def free_bytes(device: torch.device) -> float:
    """How much of a device's memory this process may still take; infinite if unknown.

    On a GPU this is the driver's free memory plus what torch's allocator holds without using it,
    less an allowance. On a CPU it is the smaller of what the system can give and what the
    container's limit leaves.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(free + unused - _GPU_RESERVE_BYTES)
    return min(_meminfo("MemAvailable"), _container_bytes())


def total_bytes() -> float:
    """The host's memory, or the container's limit if that is less; infinite if unknown."""
    limit = _read(_CGROUP / "memory.max")
    return min(_meminfo("MemTotal"), float(limit) if limit.isdigit() else float("inf"))


def usable_bytes(device: torch.device, limit: float | None) -> float:
    """`free_bytes`, but no more than a limit."""
    return min(free_bytes(device), float("inf") if limit is None else limit)


def resident_bytes() -> int:
    """Resident memory of this process (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def peak_resident_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _meminfo(name: str) -> float:
    for line in _read(_MEMINFO).splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024
    return float("inf")


def _container_bytes() -> float:
    """What the limit of a control group (version 2) leaves. Its usage includes cached files, which
    are freed when memory is needed."""
    limit, used = _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory.current")
    if not limit.isdigit() or not used.isdigit():
        return float("inf")
    stat = dict(line.split() for line in _read(_CGROUP / "memory.stat").splitlines())
    cached = sum(int(stat.get(name, 0)) for name in _RECLAIMABLE)
    return float(int(limit) - int(used) + cached)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
