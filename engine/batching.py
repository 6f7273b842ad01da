"""Sizes of batches, chosen so that a sequence's numbers never depend on its neighbours.

Measured on AVX-512 CPUs with torch 2.13 (MKL), float32, all of Whisper's layer shapes: a row of a
linear layer has the same bits at 4, 8 and 12 rows, and the same bits at every multiple of 4 from 16
up, but not the same in both ranges; at other row counts it may differ again. So an engine stays
within one range, and idle rows compute along. In bfloat16 (oneDNN) every multiple of 4 agrees; a
single row is computed by another kernel, and 7 rows are at some widths.
"""

_STEP = 4
_SMALL_RANGE_END = 12
LENGTH_STEP = 32
"""Self-attention reads positions in steps of this many; the length read does not change the bits,
because masked positions add exact zeros."""


def batch_rows(n_rows: int, max_rows: int, float32: bool) -> int:
    """Rows to compute for `n_rows` of a batch that may grow to `max_rows`.

    Args:
        float32: products are in float32, whose ranges of rows differ from each other.
    """
    rounded = _round_up(n_rows, _STEP)
    if max_rows <= _SMALL_RANGE_END or not float32:
        return rounded
    return max(rounded, _SMALL_RANGE_END + _STEP)


def read_length(n_positions: int, max_length: int) -> int:
    """Positions that self-attention reads for the longest sequence of a batch."""
    return min(_round_up(n_positions, LENGTH_STEP), max_length)


def padded_prompt(n_tokens: int) -> int:
    """Positions of a prefill: a multiple of 4 rows."""
    return _round_up(n_tokens, _STEP)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
