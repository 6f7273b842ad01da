"""Bytes or a local file in, 16 kHz mono int16 blocks out: the first step of a request's audio.

Memory stays at a few blocks however long the file is. Plain PCM is read by `pcm_reader`, all else
by `ffmpeg_reader`; mixing down, resampling and the rules for bad input are here, once. Knows
nothing of speech, chunks or HTTP.
"""

import contextlib
import io
import math
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
import soxr

from deployments.audio_header import DataChunk, find_data_chunk
from deployments.errors import (
    AudioDecodeTimeoutError,
    AudioNotFoundError,
    AudioTooLongError,
    AudioTooShortError,
    EmptyAudioError,
    NotAudioError,
    TruncatedAudioError,
)
from deployments.ffmpeg_reader import FfmpegReader
from deployments.pcm_reader import open_pcm

SAMPLE_RATE = 16_000
"""Hz, of everything that Whisper hears."""

Source = str | os.PathLike[str] | bytes

_READ_SAMPLES = 1 << 18  # of all channels together: 1 MiB of float32
_INT16_SCALE = 32_768
_MIN_SOURCE_RATE, _MAX_SOURCE_RATE = 1_000, 1_000_000  # Hz; beyond them a header is nonsense
_MAX_CHANNELS = 1_024
# Some writers count their own header as samples; no word is as short as this.
_CUT_TOLERANCE_S = 0.05


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What one request may cost, and what is too little to be speech.

    Attributes:
        max_duration_s: longest audio, in seconds of sound.
        min_duration_s: shortest audio; OpenAI too refuses less than 0.1 s.
        max_bytes: largest source; 32 GiB hold 24 h of 48 kHz stereo in 24 bit.
        decode_timeout_s: longest time spent decoding, without the time that the consumer takes.
        stall_timeout_s: longest wait of the decoder for its next samples.
    """

    max_duration_s: float = 24 * 3600.0
    min_duration_s: float = 0.1
    max_bytes: int = 32 * 1024**3
    decode_timeout_s: float = 3600.0
    stall_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value}: must be positive and finite")
        if self.min_duration_s > self.max_duration_s:
            raise ValueError(
                f"min_duration_s={self.min_duration_s} exceeds max_duration_s={self.max_duration_s}"
            )


class _Reader(Protocol):
    """A decoder of one file. `expected_s` is None where only decoding can tell."""

    sample_rate: int
    n_channels: int
    expected_s: float | None

    def read(self, n_frames: int) -> npt.NDArray[np.float32]: ...
    def missing_s(self, decoded_s: float) -> float: ...
    def close(self) -> None: ...


def read_audio(
    source: Source, limits: AudioLimits | None = None, block_s: float = 30.0
) -> Iterator[npt.NDArray[np.int16]]:
    """Decode `source` block by block.

    Channels are averaged. NaN and infinite samples become silence, others are clamped to full
    scale. 16-bit mono at 16 kHz passes through bit by bit. Nothing is opened before the first
    block is asked for, and the generator's `close()` ends the decoder and frees the file.

    Args:
        source: a path on this machine, or the content of a file.
        limits: `AudioLimits()` by default.
        block_s: length of a block in seconds.

    Yields:
        int16 arrays of shape (n_samples,), at 16 kHz. All hold `block_s` seconds but the last.

    Raises:
        ValueError: `block_s` is not positive.
        AudioError: one of its kinds. TruncatedAudioError comes after the last block, so that the
            caller has all there is; AudioTooLongError may also come after some blocks.
    """
    limits = limits or AudioLimits()
    block = round(block_s * SAMPLE_RATE)
    if block < 1:
        raise ValueError(f"block_s={block_s}: must be at least one sample")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_source(source))
        _check_size(file, limits)
        chunk = find_data_chunk(file)
        reader = open_pcm(file) or _open_ffmpeg(file, limits, stack)
        stack.callback(reader.close)
        _check_format(reader, limits)
        yield from _in_blocks(_decode(reader, limits), block, limits)
        _check_complete(reader, chunk)


# ---- the source


def _open_source(source: Source) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    name = os.path.basename(os.path.normpath(source))
    try:
        # A FIFO would block on opening, and a device never ends.
        if not stat.S_ISREG(os.stat(source).st_mode):
            kind = "a folder" if os.path.isdir(source) else "not a regular file"
            raise AudioNotFoundError(f"cannot read {name!r}: it is {kind}")
        return open(source, "rb", buffering=0)
    except OSError as error:
        raise AudioNotFoundError(f"cannot read {name!r}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise AudioNotFoundError(f"cannot read {name!r}: {error}") from error
