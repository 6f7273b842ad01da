"""Bytes, a file or samples in, 16 kHz mono int16 blocks out: the first step of a request's audio.

Memory stays at a few blocks, however long the file is. `opening` finds a reader for a file, and
`mono_resampler` turns its channels into one at 16 kHz. All limits and rules for bad input are in
this module. It knows nothing of chunks or HTTP.
"""

import contextlib
import io
import math
import os
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import IO

import numpy as np
import numpy.typing as npt

from deployments.audio.ffmpeg_reader import FfmpegReader
from deployments.audio.header import DataChunk, find_data_chunk
from deployments.audio.mono_resampler import MonoResampler
from deployments.audio.opening import Opener, Reader
from deployments.audio.report import AudioReport
from deployments.audio.sample_reader import SampleReader, Samples
from deployments.audio.tracks import Track, TrackWish, candidates
from deployments.audio.truncation import Truncation, promised
from deployments.errors import (
    AudioNotFoundError,
    AudioTooLongError,
    AudioTooShortError,
    EmptyAudioError,
    NotAudioError,
    TruncatedAudioError,
)
from deployments.messages import AudioInfo
from engine import SAMPLE_RATE

__all__ = ["AudioLimits", "Samples", "Source", "TrackWish", "read_audio"]

Source = str | os.PathLike[str] | bytes | IO[bytes] | Samples
"""A path on this machine, the content of a file, an open real file (which is closed after it has
been read), or samples."""

_Pcm = npt.NDArray[np.int16]

_READ_SAMPLES = 1 << 18  # of all channels together: 1 MiB of float32
_MIN_SOURCE_RATE, _MAX_SOURCE_RATE = 1_000, 1_000_000  # Hz; other rates in a header are nonsense
# Some writers count their own header as samples; no word is as short as this.
_CUT_TOLERANCE_S = 0.05


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What one file may cost, and how short it may be.

    Attributes:
        max_duration_s: longest audio.
        min_duration_s: shortest audio; OpenAI also refuses less than 0.1 s.
        max_bytes: largest source; 32 GiB hold 24 h of 48 kHz stereo with 24 bits.
        decode_timeout_s: longest wait for ffmpeg in all, not counting the time that the consumer
            takes between blocks.
        stall_timeout_s: longest wait for ffmpeg's next samples.
        decoder_threads: threads of ffmpeg's decoder, per file. An ingress reads many files at once,
            and one thread decodes each hundreds of times faster than real time.
    """

    max_duration_s: float = 24 * 3600.0
    min_duration_s: float = 0.1
    max_bytes: int = 32 * 1024**3
    decode_timeout_s: float = 3600.0
    stall_timeout_s: float = 60.0
    decoder_threads: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field.name}={value}: must be positive and finite")
        if self.min_duration_s > self.max_duration_s:
            raise ValueError(
                f"min_duration_s={self.min_duration_s} exceeds max_duration_s={self.max_duration_s}"
            )


_DEFAULT_LIMITS = AudioLimits()
_ANY_TRACK = TrackWish()


def read_audio(
    source: Source,
    limits: AudioLimits = _DEFAULT_LIMITS,
    block_s: float = 30.0,
    on_open: Callable[[float | None], None] | None = None,
    report: AudioReport | None = None,
    wish: TrackWish = _ANY_TRACK,
) -> Generator[_Pcm, None, None]:
    """Decode `source` block by block.

    Channels are averaged: all of them where they have the same sound, otherwise those that carry
    speech. NaN and infinite samples become silence, others are clamped to full scale; 16-bit mono
    at 16 kHz passes through unchanged. Nothing is opened before the first block is requested.
    Closing the generator stops the decoder and closes the file.

    Args:
        source: see `Source`; a path is never a URL.
        limits: see `AudioLimits`.
        block_s: length of a block.
        on_open: called before the first block with the length in seconds, or None if only decoding
            can tell it. An exception that it raises ends the reading.
        report: receives what is found beside the samples. Warnings about a file that was cut, or is
            damaged in the middle, come with the last block.
        wish: which track to read of a file that has several.

    Yields:
        int16 arrays of shape (n_samples,), at 16 kHz. All but the last hold `block_s` seconds.

    Raises:
        ValueError: `block_s` is shorter than a sample.
        AudioError: one of its subclasses. AudioTooLongError and AudioDecodeTimeoutError may come
            after some blocks, all others come before the first.
        OptionError: the file has no such track.
        DeploymentError: ffmpeg is missing, or was killed.
    """
    block_samples = round(block_s * SAMPLE_RATE)
    if block_samples < 1:
        raise ValueError(f"block_s={block_s}: shorter than one sample")
    report = report or AudioReport()
    with contextlib.ExitStack() as stack:
        reader, chunk = _open(source, limits, stack, wish, report)
        stack.callback(reader.close)
        _check_format(reader, limits)
        if on_open is not None:
            on_open(reader.expected_s)
        blocks = _Blocks(block_samples)
        yield from blocks.cut(_decode(reader, limits, report))
        _conclude(reader, chunk, blocks.n_samples / SAMPLE_RATE, limits, report)
        if len(rest := blocks.rest()):
            yield rest


def _open(
    source: Source,
    limits: AudioLimits,
    stack: contextlib.ExitStack,
    wish: TrackWish,
    report: AudioReport,
) -> tuple[Reader, DataChunk | None]:
    """A reader for the source, and where a file's samples lie if its header says so."""
    if isinstance(source, Samples):
        candidates([Track(1)], wish)
        report.info = AudioInfo()
        return SampleReader(source), None
    if not isinstance(source, str | os.PathLike | bytes):
        stack.callback(source.close)
    file = stack.enter_context(_open_source(source))
    _check_size(file, limits)
    chunk = find_data_chunk(file)
    if chunk is not None and chunk.is_cut and chunk.held_bytes == 0:
        raise TruncatedAudioError("truncated: the audio stops after its header")
    decode = partial(_open_ffmpeg, limits, report)
    to_real = partial(_to_real_file, stack)
    opener = Opener(decode, to_real, stack, wish, report, limits.stall_timeout_s)
    return opener.open(file, chunk), chunk


def _open_source(
    source: str | os.PathLike[str] | bytes | IO[bytes],
) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return _unbuffered(source)
    name = os.path.basename(os.path.normpath(source))
    try:
        mode = os.stat(source).st_mode
        # Opening a FIFO would block, and a device may never end.
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise AudioNotFoundError(f"cannot read {name!r}: it is {kind}")
        return open(source, "rb", buffering=0)
    except OSError as error:
        raise AudioNotFoundError(f"cannot read {name!r}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise AudioNotFoundError(f"cannot read {name!r}: {error}") from error


def _check_size(file: IO[bytes], limits: AudioLimits) -> None:
    n_bytes = file.seek(0, io.SEEK_END)
    if n_bytes == 0:
        raise EmptyAudioError("the audio is empty (0 bytes)")
    if n_bytes > limits.max_bytes:
        raise AudioTooLongError(f"the audio has {n_bytes} bytes, {limits.max_bytes} allowed")


def _to_real_file(stack: contextlib.ExitStack, file: IO[bytes]) -> IO[bytes]:
    """A real file without a buffer. With one, `seek` might not move the descriptor, which ffmpeg
    gets."""
    if isinstance(file, io.BytesIO):
        spooled = stack.enter_context(tempfile.TemporaryFile())  # unnamed: cannot be left behind
        spooled.write(file.getvalue())  # no copy, unlike getbuffer
        spooled.flush()
        file = spooled
    return _unbuffered(file)


def _unbuffered(file: IO[bytes]) -> IO[bytes]:
    """The same open file, whose position is the descriptor's."""
    if isinstance(file, io.BytesIO):
        return file
    file.flush()
    return io.FileIO(file.fileno(), closefd=False)


def _open_ffmpeg(
    limits: AudioLimits,
    report: AudioReport,
    file: IO[bytes],
    track: int = 0,
    keeps_padding: bool = False,
) -> Reader:
    return FfmpegReader(
        file,
        report,
        limits.stall_timeout_s,
        limits.decode_timeout_s,
        limits.decoder_threads,
        track,
        keeps_padding,
    )


def _check_format(reader: Reader, limits: AudioLimits) -> None:
    if not _MIN_SOURCE_RATE <= reader.sample_rate <= _MAX_SOURCE_RATE:
        raise NotAudioError(f"not audio: a sample rate of {reader.sample_rate} Hz")
    if reader.expected_s is not None and reader.expected_s > limits.max_duration_s:
        raise _too_long(reader.expected_s, limits)


def _decode(reader: Reader, limits: AudioLimits, report: AudioReport) -> Iterator[_Pcm]:
    """The whole file at 16 kHz, in pieces of any size."""
    resampler = MonoResampler(reader.sample_rate, reader.n_channels)
    n_read = 0
    try:
        while len(frames := _read_frames(reader)):
            n_read += len(frames)
            if n_read > limits.max_duration_s * reader.sample_rate:
                raise _too_long(n_read / reader.sample_rate, limits)
            yield resampler.push(frames)
        yield resampler.finish()
    finally:
        report.info = replace(report.info or AudioInfo(), channels=resampler.channels)


def _read_frames(reader: Reader) -> npt.NDArray[np.float32]:
    """Frames in large pieces: readers may return as few as one packet holds, and each piece has a
    fixed cost."""
    n_frames = max(1, _READ_SAMPLES // reader.n_channels)
    pieces: list[npt.NDArray[np.float32]] = []
    while sum(map(len, pieces)) <= n_frames // 2 and len(frames := reader.read(n_frames)):
        pieces.append(frames)
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate([np.zeros((0, reader.n_channels), np.float32), *pieces])


def _too_long(duration_s: float, limits: AudioLimits) -> AudioTooLongError:
    return AudioTooLongError(
        f"the audio lasts {duration_s:.1f} s or more, {limits.max_duration_s:g} s allowed"
    )


def _conclude(
    reader: Reader,
    chunk: DataChunk | None,
    decoded_s: float,
    limits: AudioLimits,
    report: AudioReport,
) -> None:
    """After the last sample, warn about what is missing, and refuse audio that is too short."""
    truncation = _truncation(reader, chunk, decoded_s)
    if truncation is None:
        if decoded_s < limits.min_duration_s:
            raise AudioTooShortError(
                f"the audio lasts {decoded_s:.3f} s, at least {limits.min_duration_s:g} s needed"
            )
        return
    if decoded_s == 0:
        raise TruncatedAudioError(truncation.reason)
    report.warn("truncated", truncation.reason, decoded_s, truncation.declared_s)


def _truncation(reader: Reader, chunk: DataChunk | None, decoded_s: float) -> Truncation | None:
    """What is missing after the last sample: by the header's sizes if they show a cut, else by what
    the reader says."""
    said = reader.truncation(decoded_s)  # always: it raises if the decoder was killed
    if chunk is None or not chunk.is_cut or chunk.declared_bytes is None:
        return said
    declared_s = decoded_s * chunk.declared_bytes / chunk.held_bytes
    is_cut = declared_s - decoded_s > _CUT_TOLERANCE_S
    return promised(decoded_s, declared_s) if is_cut else None


class _Blocks:
    """Cuts pieces of any size into blocks of one size. Holds less than a block and a piece."""

    def __init__(self, block_samples: int) -> None:
        self._block_samples = block_samples
        self._pieces: list[_Pcm] = []
        self._n_kept = 0
        self.n_samples = 0
        """Number of samples taken so far."""

    def cut(self, pieces: Iterable[_Pcm]) -> Iterator[_Pcm]:
        """Yields the full blocks; `rest` returns what is left over."""
        for piece in pieces:
            self.n_samples += len(piece)
            self._pieces.append(piece)
            self._n_kept += len(piece)
            if self._n_kept >= self._block_samples:
                yield from self._full_blocks()

    def rest(self) -> _Pcm:
        return np.concatenate([np.zeros(0, np.int16), *self._pieces])

    def _full_blocks(self) -> Iterator[_Pcm]:
        joined = self.rest()
        n_full = len(joined) // self._block_samples * self._block_samples
        # Copies, because a view would keep all of `joined` alive, and the next block with it.
        self._pieces = [joined[n_full:].copy()]
        self._n_kept = len(joined) - n_full
        for start in range(0, n_full, self._block_samples):
            yield joined[start : start + self._block_samples].copy()
