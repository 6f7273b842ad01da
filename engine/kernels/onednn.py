"""What oneDNN, torch's library of CPU kernels, supports on this machine."""

from functools import cache

import torch


def has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@cache
def has_onednn_bfloat16() -> bool:
    """Whether it multiplies bfloat16, natively or via float32: with AVX-512 it does."""
    return has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
