"""Cores that other replicas of the machine leave idle, lent to one that has little to do.

A replica reserves `cpus` cores, so that many of them share a machine. One that works alone would
leave the rest of it idle. So replicas tell each other when they compute, in a file in memory, and
one with few chunks computes with more threads meanwhile. Each writes nothing but its own entry, and
nobody waits for anybody. A replica whose slots fill up takes no more than its own: the speed that
it has then is what the autoscaler plans with.

Not for models whose numbers depend on the number of threads (`EngineConfig.depends_on_threads`).
"""

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_ENTRIES = 256
_WORDS = 3  # of 64 bits: process, its own cores, when its step began (0: it rests)
_BYTES = 8 * _WORDS * _ENTRIES
_STALE_NS = 30_000_000_000
"""A process whose step began longer ago died in it, or hangs."""
_CGROUP = Path("/sys/fs/cgroup/cpu.max")


class IdleCores:
    """One process's entry, and its view of the others.

    Args:
        own: cores that the process reserves.
        most: threads that it computes with at most.
        set_threads: called with the number of threads when it changes; `own` at first.
        path: the file; by default that of all replicas of this user on this machine.
        n_cores: cores of the machine; None: `usable_cores`.
        clock_ns: the same for all processes of the machine.

    Raises:
        OSError: the file cannot be used, or is full.
    """

    def __init__(
        self,
        own: int,
        most: int,
        set_threads: Callable[[int], None],
        path: Path | None = None,
        n_cores: int | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._own, self._most = own, most
        self._set_threads = set_threads
        self._n_cores = n_cores or usable_cores()
        self._clock_ns = clock_ns
        self._threads = own
        self._words, self._at = _claim(path or board_path(), own)

    def working(self, is_few: bool) -> None:
        """A step begins.

        Args:
            is_few: whether the process has little to do.
        """
        now_ns = self._clock_ns()
        self._words[self._at + 2] = now_ns
        threads = self._own + (self._share(now_ns) if is_few else 0)
        if threads != self._threads:
            self._threads = threads
            self._set_threads(threads)

    def resting(self) -> None:
        """There is nothing to do."""
        self._words[self._at + 2] = 0

    def close(self) -> None:
        """Give the entry back."""
        for word in range(_WORDS):
            self._words[self._at + word] = 0

    def _share(self, now_ns: int) -> int:
        """An equal part of the cores that nobody computes with who reserved them."""
        words = self._words.tolist()
        n_working, n_taken = 0, 0
        for pid, cores, began_ns in zip(words[0::3], words[1::3], words[2::3], strict=True):
            if pid and began_ns and now_ns - began_ns < _STALE_NS:
                n_working += 1
                n_taken += cores
        idle = max(0, self._n_cores - n_taken) // max(1, n_working)
        return max(0, min(idle, self._most - self._own))


def board_path() -> Path:
    """The file of this user's replicas on this machine, of whichever cluster."""
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() else Path(tempfile.gettempdir())
    return folder / f"murmur-{os.getuid()}-cores"


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use at once: those that it may run on, and no more than its
    control group's quota."""
    n = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no such group, or an older kind
        return n
    return n if quota == "max" else max(1, min(n, int(quota) // int(period)))


def _claim(path: Path, own: int) -> tuple[memoryview, int]:
    """Map the file, and take a free entry of it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_size != _BYTES:
            os.ftruncate(file, _BYTES)
        words = memoryview(mmap.mmap(file, _BYTES)).cast("q")
        for at in range(0, len(words), _WORDS):
            if not _lives(words[at]):
                words[at + 2], words[at + 1], words[at] = 0, own, os.getpid()
                return words, at
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # the mapping keeps the file open
        os.close(file)
    raise OSError(f"{path}: all {_ENTRIES} entries are taken")


def _lives(pid: int) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
