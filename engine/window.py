"""How much of its window the encoder sees of a chunk.

Whisper was trained on windows of 30 s, and a chunk of 7 s is silence for the rest. A short window
ends some silence after the chunk. Its lengths are few, so that shapes are, and a chunk's length
depends on nothing but the chunk.
"""

from enum import StrEnum

FRAME_SAMPLES = 320
"""Samples of a frame of the encoder: 20 ms at 16 kHz."""
N_FRAMES = 1500
"""Frames of the whole window."""
MIN_FRAMES = 100
"""A chunk of fewer frames, 2 s, gets the whole window: for most of them a small model needs it
anyhow (docs/decisions.md)."""
STEP_FRAMES = 128
"""Lengths of short windows are multiples of this: 64 keys at once are the native kernels' step, and
shapes should be few."""


class Window(StrEnum):
    """What the encoder sees of a chunk.

    `EXACT`: all 30 s, as Whisper was trained. `SHORT`: the chunk and a margin of silence, if that
    is less: the fewer frames, the less work. Most texts stay the same; whoever takes a text from a
    short window looks for signs that it went wrong (`Result.n_frames`).
    """

    EXACT = "exact"
    SHORT = "short"


def short_frames(n_samples: int, margin: int, n_audio_ctx: int) -> int:
    """Frames of the short window of a chunk; `n_audio_ctx`, the whole window, if it is no shorter.

    Args:
        margin: frames of silence behind the chunk, at least.
    """
    n_frames = -(-n_samples // FRAME_SAMPLES)
    if n_frames < MIN_FRAMES:
        return n_audio_ctx
    return min(-(-(n_frames + margin) // STEP_FRAMES) * STEP_FRAMES, n_audio_ctx)
