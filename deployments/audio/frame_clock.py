"""A clock for files that consist of frames only (MP3, ADTS), from each frame's place in the file.

In such files ffmpeg counts the frames that it finds. Where a header is broken it finds too few, and
everything after it comes too early. Here, the bytes between two runs of frames count as the frames
that they once were. Headers are read a little ahead of the decoder, and none twice.
"""

import os
from collections.abc import Iterator

from deployments.audio.mpeg_frames import MIN_FRAMES, Frame, read_frame

_PIECE_BYTES = 1 << 18
_MARGIN_BYTES = 1 << 13  # more than the largest frame
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")  # found between the frames of joined files
_INFO_TAGS = (b"Xing", b"Info", b"VBRI")  # a first frame that holds no sound


class FrameClock:
    """Moves ffmpeg's timestamps to where their frames lie in the file.

    Args:
        descriptor: of the file; its position does not change.
        container: one of `mpeg_frames.FRAMED`.
        sample_rate: of the timestamps, Hz.
    """

    def __init__(self, descriptor: int, container: str, sample_rate: int) -> None:
        self._rate = sample_rate
        self._breaks = _find_breaks(descriptor, container)
        self._shift = 0
        self._break = next(self._breaks, None)

    def place(self, stamp: int, n_samples: int) -> tuple[int, bool]:
        """A frame's true timestamp, and whether frames were lost before it. Frames must come in
        file order."""
        stamp += self._shift
        is_behind = False
        while self._break is not None and stamp + n_samples // 2 >= self._rate * self._break[0]:
            is_behind = True
            early = round(self._rate * self._break[1]) - stamp
            self._shift += max(0, early)
            stamp += max(0, early)
            self._break = next(self._breaks, None)
        return stamp, is_behind


def _find_breaks(descriptor: int, container: str) -> Iterator[tuple[float, float]]:
    """Where frames are lost, in seconds: the end of the last frame before, the start of the next.

    For MP3, the next frame is the second after the break: ffmpeg's parser swallows the first.
    """
    window = _Window(descriptor)
    offset = _next_run(window, 0, container)
    if offset is None:
        return
    n_samples = n_frames = n_bytes = 0
    first: Frame | None = None
    while (frame := read_frame(*window.at(offset), container)) or not window.is_end(offset):
        if frame is not None and (first is None or frame.sample_rate == first.sample_rate):
            is_info = first is None and window.mentions(offset, frame.n_bytes, _INFO_TAGS)
            first = first or frame
            if not is_info:
                n_samples += frame.n_samples
                n_frames += 1
                n_bytes += frame.n_bytes
            offset += frame.n_bytes
            continue
        resumes = _next_run(window, offset + 1, container)
        if first is None or resumes is None or n_frames == 0:
            return
        if not window.mentions(offset, len(_TAGS[2]), _TAGS):
            n_lost = round((resumes - offset) * n_frames / n_bytes)
            end = n_samples
            n_samples += n_lost * first.n_samples
            n_swallowed = first.n_samples if container == "mp3" else 0
            yield end / first.sample_rate, (n_samples + n_swallowed) / first.sample_rate
        offset = resumes
        following = read_frame(*window.at(offset), container)
        if following is None or following.sample_rate != first.sample_rate:
            return  # joined files of several rates: make do with ffmpeg's count


def _next_run(window: "_Window", offset: int, container: str) -> int | None:
    """Offset of the first frame at or after `offset` that is followed by other frames."""
    while (found := window.find_sync(offset)) is not None:
        end, n_frames = found, 0
        while n_frames < MIN_FRAMES and (frame := read_frame(*window.at(end), container)):
            end += frame.n_bytes
            n_frames += 1
        if n_frames == MIN_FRAMES:
            return found
        offset = found + 1
    return None


class _Window:
    """A moving piece of a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._start = 0
        self._data = b""

    def at(self, offset: int) -> tuple[bytes, int]:
        """Bytes, and the index of `offset` in them. At least a frame's length follows it, unless
        the file ends."""
        inside = offset - self._start
        if not 0 <= inside <= len(self._data) - _MARGIN_BYTES:
            self._start, inside = offset, 0
            self._data = os.pread(self._descriptor, _PIECE_BYTES, offset)
        return self._data, inside

    def is_end(self, offset: int) -> bool:
        data, inside = self.at(offset)
        return inside >= len(data)

    def mentions(self, offset: int, n_bytes: int, words: tuple[bytes, ...]) -> bool:
        data, inside = self.at(offset)
        return any(word in data[inside : inside + n_bytes] for word in words)

    def find_sync(self, offset: int) -> int | None:
        while not self.is_end(offset):
            data, inside = self.at(offset)
            found = data.find(b"\xff", inside)
            if found >= 0:
                return self._start + found
            offset = self._start + len(data)
        return None
