"""Memory that loading frees goes back to the system."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LOADING_BYTES = 1 << 20
_RUNNING_BYTES = 32 << 20
"""What glibc's own rule grows to on 64-bit machines (mallopt(3)): computing must not map and unmap
its tensors all the time."""


@contextmanager
def giving_back_memory() -> Iterator[None]:
    """While weights are read and converted, glibc keeps no freed tensors.

    By its own rule it keeps those up to 32 MB for reuse, between ones that stay: a rank of large-v3
    was 1.3 GB larger than its 0.9 GB of weights. Without glibc this does nothing.
    """
    _set_thresholds(_LOADING_BYTES)
    try:
        yield
    finally:
        _set_thresholds(_RUNNING_BYTES)
        if hasattr(_LIBC, "malloc_trim"):
            _LIBC.malloc_trim(0)


def _set_thresholds(n_bytes: int) -> None:
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, n_bytes)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, 2 * n_bytes)
