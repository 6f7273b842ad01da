"""Reads all samples of uncompressed files that state a wrong size or were joined, in file order."""

from collections.abc import Sequence
from itertools import groupby
from typing import IO

import numpy as np
import numpy.typing as npt
import soxr

from deployments.audio.header import DataChunk, find_data_chunk
from deployments.audio.pcm_reader import PcmFormat, PcmReader, open_spans, pcm_format
from deployments.audio.report import AudioReport
from deployments.audio.sample_parts import Part
from deployments.audio.truncation import Truncation, promised

_TOLERANCE_S = 0.05  # some writers count their own header as samples


def is_as_promised(parts: Sequence[Part], chunk: DataChunk) -> bool:
    """Whether the file is what its header says: one stretch of samples of the stated length."""
    end = chunk.offset + chunk.held_bytes
    return len(parts) == 1 and parts[0].spans in ([], [(chunk.offset, end)])


def open_parts(
    file: IO[bytes], parts: Sequence[Part], first: PcmFormat, report: AudioReport
) -> "JoinedReader | None":
    """A reader for all uncompressed parts. Adds a warning for each other part.

    Args:
        first: format of the first part.

    Returns:
        None if there is not a single frame.
    """
    layouts = [first, *(pcm_format(file, part) for part in parts[1:])]
    readers: list[PcmReader] = []
    for layout, run in groupby(zip(layouts, parts, strict=True), key=lambda pair: pair[0]):
        spans = [span for _, part in run for span in part.spans]
        if layout is None:
            warn_unread(spans, report)
        elif (reader := open_spans(file, spans, layout)) is not None:
            readers.append(reader)
    return JoinedReader(readers, _missing_s(file, parts[-1], layouts[-1])) if readers else None


def _missing_s(file: IO[bytes], last: Part, layout: PcmFormat | None) -> float:
    """Seconds by which the last part falls short of what its header promises."""
    chunk = find_data_chunk(file, last.start)
    if layout is None or chunk is None or chunk.declared_bytes is None:
        return 0.0
    n_bytes = max(0, chunk.declared_bytes - last.n_bytes)
    return n_bytes / (layout.frame_bytes * layout.sample_rate)


def warn_unread(spans: Sequence[tuple[int, int]], report: AudioReport) -> None:
    """Warn that samples of a file after the first one were not read."""
    n_bytes = sum(end - start for start, end in spans)
    report.warn(
        "damaged",
        f"a second file, of another format, was joined to this one; its {n_bytes} bytes of audio "
        "were not read: send it by itself",
    )


class JoinedReader:
    """Reads several files in a row, at the highest rate and channel count among them."""

    def __init__(self, readers: Sequence[PcmReader], missing_s: float = 0.0) -> None:
        self._readers = list(readers)
        self._missing_s = missing_s
        self.sample_rate = max(reader.sample_rate for reader in readers)
        self.n_channels = max(reader.n_channels for reader in readers)
        self.expected_s: float | None = sum(reader.expected_s or 0.0 for reader in readers)
        self._index = 0
        self._resampler = self._open_resampler()

    def read(self, n_frames: int) -> npt.NDArray[np.float32]:
        """About `n_frames` frames; none at the end."""
        while self._index < len(self._readers):
            reader = self._readers[self._index]
            frames = reader.read(n_frames)
            is_end = len(frames) == 0
            if self._resampler is not None:
                frames = self._resampler.resample_chunk(frames, last=is_end)
            if is_end:
                self._index += 1
                self._resampler = self._open_resampler()
            if len(frames):
                return self._widen(frames)
        return np.zeros((0, self.n_channels), np.float32)

    def truncation(self, decoded_s: float) -> Truncation | None:
        """What is missing from the last file."""
        if self._missing_s <= _TOLERANCE_S:
            return None
        return promised(decoded_s, decoded_s + self._missing_s)

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def _open_resampler(self) -> soxr.ResampleStream | None:
        if self._index >= len(self._readers):
            return None
        reader = self._readers[self._index]
        if reader.sample_rate == self.sample_rate:
            return None
        return soxr.ResampleStream(
            reader.sample_rate, self.sample_rate, reader.n_channels, dtype="float32", quality="HQ"
        )

    def _widen(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if frames.shape[1] == self.n_channels:
            return frames
        return np.repeat(frames.mean(axis=1, keepdims=True), self.n_channels, axis=1)
