"""Sizes of batches, chosen so that a sequence's numbers never depend on its neighbours.

Measured on AVX-512 CPUs with torch 2.13 (MKL), float32, all of Whisper's layer shapes: a row of a
linear layer has the same bits at 4, 8 and 12 rows, and the same bits at every multiple of 4 from 16
up, but the two ranges differ from each other, and other row counts may differ again. So an engine
stays within one range, and idle rows are computed too. In bfloat16 (oneDNN) every multiple of 4
agrees; another kernel computes a single row, and at some widths 7 rows. Where all of a decoder's
products run on our own kernels (`LinearKernel.takes_any_rows`), none of this applies, and only the
rows that there are are computed.
"""

_STEP = 4
_SMALL_RANGE_END = 12
LENGTH_STEP = 32
"""The length that self-attention reads is rounded up to a multiple of this. It does not change the
bits, because masked positions add exact zeros."""


def batch_rows(n_rows: int, max_rows: int, float32: bool) -> int:
    """Rows to compute for `n_rows` of a batch that may grow to `max_rows`.

    Args:
        float32: whether products are float32, whose two ranges of rows differ from each other.
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
