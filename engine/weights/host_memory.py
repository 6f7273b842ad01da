"""Returns memory that loading frees to the system."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LOADING_BYTES = 1 << 20
_RUNNING_BYTES = 32 << 20
"""The value to which glibc's own rule grows on 64-bit machines (mallopt(3)). With a lower one,
computing would map and unmap its tensors all the time."""


@contextmanager
def giving_back_memory() -> Iterator[None]:
    """A context for reading and converting weights, in which glibc keeps no freed tensors.

    By its own rule glibc keeps freed tensors of up to 32 MB for reuse, between those that stay: a
    rank of large-v3 was 1.3 GB larger than its 0.9 GB of weights. Without glibc this does nothing.
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
