"""The builds of the native kernels of `csrc`: which were compiled, which run here, and their calls.

The kernels are compiled when the package is installed, if there is a C compiler, once for each set
of instructions; without them everything runs on torch's kernels.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_ABI = 5
INSTRUCTIONS = ("amx", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx2")
"""The instruction sets that the kernels are compiled for, the fastest first."""
_PAIRS_AS_THEY_ARE = ("amx", "avx512_bf16")
"""Those that multiply bfloat16 as such; the others unpack it to float32."""
_BEST = "best"
_wanted: str | None = _BEST


def serves(device: torch.device) -> bool:
    """Whether the kernels were compiled and can run on the device."""
    return device.type == "cpu" and _library() is not None


def in_use() -> str | None:
    """Which of `INSTRUCTIONS` the kernels that run here are written for; None if none run."""
    return None if _library() is None else _chosen()


def is_compiled(instructions: str) -> bool:
    """Whether the kernels of one of `INSTRUCTIONS` were compiled, whether or not they run here."""
    return _path(instructions) is not None


def runs(instructions: str) -> bool:
    """Whether the kernels of one of `INSTRUCTIONS` were compiled and the processor has them."""
    return _loaded(instructions) is not None


@contextmanager
def limited_to(instructions: str | None) -> Iterator[None]:
    """A context for models loaded and run in it: uses the named kernels of `INSTRUCTIONS`, or none
    if those cannot run."""
    global _wanted
    before, _wanted = _wanted, instructions
    try:
        yield
    finally:
        _wanted = before


def disabled() -> AbstractContextManager[None]:
    """A context without the kernels, as if they had not been compiled: to compare."""
    return limited_to(None)


def tile_itemsize() -> int:
    """Bytes of a bfloat16 activation while it is multiplied."""
    return 2 if in_use() in (None, *_PAIRS_AS_THEY_ARE) else 4


@cache
def _best() -> str | None:
    """The first of `INSTRUCTIONS` that was compiled and that the processor has."""
    return next(filter(runs, INSTRUCTIONS), None)


def _chosen() -> str | None:
    return _best() if _wanted == _BEST else _wanted


def _library() -> ctypes.CDLL | None:
    name = _chosen()
    return None if name is None else _loaded(name)


@cache
def _loaded(instructions: str) -> ctypes.CDLL | None:
    path = _path(instructions)
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        usable = library.murmur_abi() == _ABI and library.murmur_runs_here()
        return _declared(library) if usable else None
    except (OSError, AttributeError):  # a library that it needs is missing, or it is outdated
        return None


def _path(instructions: str) -> Path | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_native_{instructions}{suffix}")
        if path.exists():
            return path
    return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    signatures: dict[str, list[type]] = {
        "linear_bfloat16": [pointer, number, size, pointer, pointer, number, number],
        "linear_int8": [pointer, size, pointer, pointer, number, number],
        "mlp_int8": [pointer, size, pointer, pointer, pointer],
        "linear_float32": [pointer, size, pointer, pointer, number],
        "encoder_attention": [pointer, size, size, size, pointer],
        "encoder_attention_float32": [pointer, size, size, size, pointer],
        "fill_cross": [pointer, size, size, pointer, pointer],
        "cross_attention": [pointer, size, pointer, pointer, pointer],
        "self_attention": [pointer, size, size, pointer, pointer, pointer, size, pointer],
        "refine_logits": [pointer, size, pointer, pointer],
        "reduce_logits": [pointer, size, size, size, pointer, pointer, pointer],
        "top_logits": [pointer, size, size, size, pointer, pointer],
    }
    for name, arguments in signatures.items():
        function = getattr(library, f"murmur_{name}")
        function.argtypes = [*arguments, number]  # the last one: threads
        function.restype = number
    return library


def call(name: str, *arguments: object) -> None:
    """Run a kernel with as many threads as torch would use; tensors are passed as pointers."""
    plain = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
    chosen = _chosen()
    assert chosen is not None
    if _kernel(chosen, name)(*plain, torch.get_num_threads()):
        raise MemoryError(f"no memory for the scratch of {name}")


@cache
def _kernel(instructions: str, name: str) -> Callable[..., int]:
    library = _loaded(instructions)
    assert library is not None
    kernel: Callable[..., int] = getattr(library, f"murmur_{name}")
    return kernel
