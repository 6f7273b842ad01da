"""The native kernels of `csrc`, for CPUs with AVX2, and with what AVX-512, AVX-VNNI and AMX add to
it, as functions of tensors. They may be called where `native_builds.serves`.

Tensors are on the CPU. Rows share no sums, so a row has the same bits whatever the other rows and
however many threads.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from engine.kernels.native_builds import call

HEAD_DIM = 64
"""Width of a head in every Whisper model, and the only one that the attention kernels support."""
MAX_LENGTH = 1536
"""The most keys that the attention kernels can attend to."""
_LANES = 16
_COLUMNS = 32
_CROSS_STEP = 64
_KEY_OFFSET = 128
"""Stored keys are unsigned."""
_BLOCK_ROWS = 4096


class _Int8Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "sums", "bias")),
        *((name, ctypes.c_long) for name in ("depth", "width")),
    ]


class _FloatLayer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_long) for name in ("depth", "width")),
    ]


def _packed(weight: torch.Tensor, dtype: torch.dtype, group: int) -> torch.Tensor:
    """(out, in) -> (out / 16, in / group, 16, group), `out` rounded up to a multiple of 32.

    Packs in blocks of rows, so that a vocabulary's layer is never in memory a third time.
    """
    width, depth = weight.shape
    n_tiles = (width + -width % _COLUMNS) // _LANES
    packed = torch.zeros(n_tiles, depth // group, _LANES, group, dtype=dtype)
    for start in range(0, width, _BLOCK_ROWS):
        rows = weight[start : start + _BLOCK_ROWS].to(dtype)
        tiles = F.pad(rows, (0, 0, 0, -len(rows) % _LANES)).view(-1, _LANES, depth // group, group)
        first = start // _LANES
        packed[first : first + len(tiles)] = tiles.permute(0, 2, 1, 3)
    return packed


class Bfloat16Weight:
    """A linear layer's weights in the kernels' layout.

    Args:
        weight: (out, in); `in` is a multiple of 32.
        bias: (out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.width, self.depth = weight.shape
        padding = -self.width % _COLUMNS
        bias = weight.new_zeros(self.width) if bias is None else bias
        # Passed by address, so they must live as long as this object.
        self.tensors = (_packed(weight, torch.bfloat16, 2), F.pad(bias.float(), (0, padding)))
        addresses = [tensor.data_ptr() for tensor in self.tensors]
        self._layer = _FloatLayer(*addresses, self.depth, self.width)

    @property
    def pointer(self) -> int:
        return ctypes.addressof(self._layer)


class Float32Weight:
    """A linear layer's weights in the kernels' layout.

    Args:
        weight: (out, in).
        bias: (out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.width, self.depth = weight.shape
        # Passed by address, so they must live as long as this object.
        self.tensors = [_packed(weight, torch.float32, 1)]
        if bias is not None:
            self.tensors.append(F.pad(bias.float(), (0, -self.width % _COLUMNS)))
        addresses = [tensor.data_ptr() for tensor in self.tensors] + [None] * (bias is None)
        self._layer = _FloatLayer(*addresses, self.depth, self.width)

    @property
    def pointer(self) -> int:
        return ctypes.addressof(self._layer)

    def rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """The weights of some outputs, (...) int64 -> (..., in)."""
        packed: torch.Tensor = self.tensors[0]
        rows: torch.Tensor = packed[outputs // _LANES, :, outputs % _LANES, 0]
        return rows


def linear_float32(x: torch.Tensor, weight: Float32Weight, gelu: bool) -> torch.Tensor:
    """(..., in) float32 -> (..., out) float32; applies a GELU if asked to."""
    assert x.dtype == torch.float32 and x.shape[-1] == weight.depth
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], weight.width)
    call("linear_float32", x, x.numel() // weight.depth, weight.pointer, out, gelu)
    return out


def linear_bfloat16(
    x: torch.Tensor, weight: Bfloat16Weight, dtype: torch.dtype, gelu: bool
) -> torch.Tensor:
    """(..., in) -> (..., out) of `dtype`, each float32 or bfloat16; applies a GELU if asked to."""
    assert {x.dtype, dtype} <= {torch.float32, torch.bfloat16} and x.shape[-1] == weight.depth
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], weight.width, dtype=dtype)
    n, is_float, to_float = x.numel() // weight.depth, x.dtype.itemsize == 4, dtype.itemsize == 4
    call("linear_bfloat16", x, is_float, n, weight.pointer, out, to_float, gelu)
    return out


class Int8Weight:
    """A linear layer's weights in the kernels' layout.

    Args:
        quantized: (out, in) int8; `in` is a multiple of 4.
        scale, bias: (out,) float32.
    """

    def __init__(
        self, quantized: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self.width, self.depth = quantized.shape
        padding = -self.width % _COLUMNS
        bias = torch.zeros_like(scale) if bias is None else bias.float()
        # Passed by address, so they must live as long as this object.
        self.tensors = (
            _packed(quantized, torch.int8, 4),
            F.pad(scale, (0, padding)),
            F.pad(_row_sums(quantized), (0, padding)),
            F.pad(bias, (0, padding)),
        )
        addresses = [tensor.data_ptr() for tensor in self.tensors]
        self._layer = _Int8Layer(*addresses, self.depth, self.width)

    @property
    def pointer(self) -> int:
        return ctypes.addressof(self._layer)


def _row_sums(quantized: torch.Tensor) -> torch.Tensor:
    """Sums in blocks, because torch converts everything that it sums."""
    parts = [part.sum(1, dtype=torch.int32) for part in torch.split(quantized, _BLOCK_ROWS)]
    return torch.cat(parts)


def linear_int8(x: torch.Tensor, weight: Int8Weight, gelu: bool, of_gelu: bool) -> torch.Tensor:
    """(..., in) float32 -> (..., out) float32; applies a GELU if asked to. Rows are quantised one
    by one.

    Args:
        of_gelu: the input comes from a GELU, and is quantised as such.
    """
    assert x.dtype == torch.float32 and x.shape[-1] == weight.depth
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], weight.width)
    call("linear_int8", x, x.numel() // weight.depth, weight.pointer, out, gelu, of_gelu)
    return out


def mlp_int8(x: torch.Tensor, first: Int8Weight, second: Int8Weight) -> torch.Tensor:
    """(..., in) float32 -> (..., out) float32: the same bits as two calls of `linear_int8` around a
    GELU, but the hidden units never leave a core's cache."""
    assert x.dtype == torch.float32 and x.shape[-1] == first.depth
    assert first.width == second.depth
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], second.width)
    call("mlp_int8", x, x.numel() // first.depth, first.pointer, second.pointer, out)
    return out


def encoder_attention(qkv: torch.Tensor) -> torch.Tensor:
    """(B, T, q, k and v of H heads of 64) -> (B, T, H * 64), both bfloat16 or both float32. Every
    row attends to all rows; T is at most 1536."""
    assert qkv.dtype in (torch.bfloat16, torch.float32) and qkv.shape[1] <= MAX_LENGTH
    qkv = qkv.contiguous()
    batch, length, width = qkv.shape
    out = qkv.new_empty(batch, length, width // 3)
    of_floats = "_float32" if qkv.dtype == torch.float32 else ""
    call(f"encoder_attention{of_floats}", qkv, batch, length, width // 3 // HEAD_DIM, out)
    return out


class _CrossCache(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        ("lengths", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("heads", "padded")),
    ]


class Int8CrossCache:
    """One layer's cross-attention keys and values in slots, in 8 bits with a scale per row of 64.
    All are zero at the start.

    Args:
        length: keys that a slot has room for.
        lengths: (n_slots,) int64, those that each slot has, which `attend` reads; None: `length`.
            It may be changed before `fill`.
    """

    def __init__(
        self, n_slots: int, n_heads: int, length: int, lengths: torch.Tensor | None = None
    ) -> None:
        assert length <= MAX_LENGTH
        self._length, padded = length, length + -length % _CROSS_STEP
        known = torch.full((n_slots,), length) if lengths is None else lengths
        assert known.dtype == torch.int64 and known.is_contiguous() and len(known) == n_slots
        shape = (n_slots, n_heads, padded)
        self._tensors = (
            torch.zeros(*shape, HEAD_DIM, dtype=torch.uint8),
            torch.zeros(*shape, HEAD_DIM, dtype=torch.int8),
            torch.zeros(shape),
            torch.zeros(shape),
        )
        self._lengths = known
        addresses = [tensor.data_ptr() for tensor in (*self._tensors, known)]
        self._cache = _CrossCache(*addresses, n_heads, padded)

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors)

    def fill(self, kv: torch.Tensor, slots: torch.Tensor) -> None:
        """(B, L, k and v of H heads of 64) bfloat16 into slots (B,) int64, whose length is L."""
        assert kv.dtype == torch.bfloat16 and len(kv) == len(slots)
        assert kv.shape[1] <= self._length
        pointer = ctypes.addressof(self._cache)
        call("fill_cross", kv.contiguous(), len(kv), kv.shape[1], slots, pointer)

    def keys(self, slots: slice | torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
        """The keys of some heads of n slots, as they are stored: (n, len(heads), length, 64)
        float32."""
        packed, _, scales, _ = self._tensors
        which = list(heads)
        shape = (self._cache.padded // _CROSS_STEP, HEAD_DIM // 4, _CROSS_STEP, 4)
        chosen = packed[slots][:, which].view(-1, len(which), *shape)
        rows = chosen.transpose(3, 4).flatten(4).flatten(2, 3)[:, :, : self._length]
        steps = scales[slots][:, which, : self._length, None]
        return (rows.float() - _KEY_OFFSET) * steps

    def attend(self, queries: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """(n, H * 64) float32 -> (n, H * 64) float32; row i attends to slot `slots[i]`, int64."""
        n = queries.shape[0]  # len() of a tensor is Python
        assert queries.dtype == torch.float32 and n == slots.shape[0]
        queries = queries.contiguous()
        out = torch.empty_like(queries)
        pointer = ctypes.addressof(self._cache)
        call("cross_attention", queries, n, slots, pointer, out)
        return out


def self_attention(
    qkv: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """One token in each of the first n slots: (n, q, k and v of H heads of 64) -> (n, H * 64).

    Args:
        positions: (n,) int64, where each token is written; it attends to all up to itself.
        keys, values: (slots, H, positions, 64) contiguous; all float32.
    """
    qkv, positions = qkv.contiguous(), positions.contiguous()
    heads, max_length = keys.shape[1:3]
    assert qkv.dtype == keys.dtype == values.dtype == torch.float32 and max_length <= MAX_LENGTH
    assert keys.is_contiguous() and values.is_contiguous()
    out = qkv.new_empty(len(qkv), heads * HEAD_DIM)
    call("self_attention", qkv, len(qkv), heads, positions, keys, values, max_length, out)
    return out


class _Output(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "excluded")),
        *((name, ctypes.c_long) for name in ("depth", "width", "tail", "n_excluded")),
        *((name, ctypes.c_float) for name in ("norm", "step")),
    ]


class OutputWeight:
    """Tells which 8-bit logits have to be computed again.

    Args:
        weight: (ids, in) bfloat16 contiguous, the output layer; `in` is a multiple of 32.
        scale: (ids,) float32, the steps in which it was quantised.
        tail: all ids from this one on are computed again; before it, those that may be the
            greatest.
        excluded: ids before the tail that are never chosen.
    """

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, tail: int, excluded: Sequence[int] = ()
    ) -> None:
        assert weight.dtype == torch.bfloat16 and weight.is_contiguous()
        assert all(0 <= token < tail for token in excluded)
        width, depth = weight.shape
        # Passed by address, so they must live as long as this object.
        self._tensors = (weight, torch.tensor(excluded, dtype=torch.int64))
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        # In blocks: a float32 copy of a vocabulary's layer is twice the size of what stays.
        norm = max(
            float(part.float().norm(dim=1).amax()) for part in torch.split(weight, _BLOCK_ROWS)
        )
        step = float(scale.amax())
        self._output = _Output(*addresses, depth, width, tail, len(excluded), norm, step)

    @property
    def pointer(self) -> int:
        return ctypes.addressof(self._output)


def refine_logits(logits: torch.Tensor, x: torch.Tensor, weight: OutputWeight) -> None:
    """Recompute the deciding 8-bit logits in bfloat16, in place.

    Args:
        logits: (n, ids) float32 contiguous.
        x: (n, in), the rows from which they were computed.
    """
    x = x.to(torch.bfloat16).contiguous()
    assert logits.is_contiguous()
    call("refine_logits", x, len(x), weight.pointer, logits)


def reduce_logits(logits: torch.Tensor) -> Sequence[torch.Tensor]:
    """(n, ids) float32, each row contiguous -> the greatest, the first index that has it, and the
    log-sum-exp, (n,) each."""
    n, width = logits.shape
    assert logits.dtype == torch.float32 and (width == 1 or logits.stride(1) == 1)
    greatest, log_sum = logits.new_empty(2, n)
    index = torch.empty(n, dtype=torch.int64)
    call("reduce_logits", logits, n, width, logits.stride(0), greatest, index, log_sum)
    return greatest, index, log_sum


def top_logits(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, ids) float32, contiguous, of at least k ids -> the k greatest of each row in descending
    order, of equals the first, and their indices, (n, k) each."""
    n, width = logits.shape
    assert logits.dtype == torch.float32 and logits.is_contiguous() and k <= width
    values, index = logits.new_empty(n, k), torch.empty(n, k, dtype=torch.int64)
    call("top_logits", logits, n, width, k, values, index)
    return values, index
