"""Finds broken stretches of a fragmented MP4 file, and makes a copy that can be read nevertheless.

ffmpeg (as of 9.0) ends without a word at a broken box, skips a fragment whose index (`moof`) is
damaged, and refuses a whole file for some faults in its middle. But every fragment states its own
time. So broken stretches are turned into `free` boxes, which players skip: everything else stays at
its offset, which a fragment may name, and the file's clock shows the gap.
"""

import io
import shutil
import struct
import tempfile
from dataclasses import dataclass
from typing import IO

from deployments.audio.iso_media import Box, boxes_within, iter_boxes, top_boxes

_MAX_BOXES = 300_000  # of a whole file; a crafted one must not keep the reader busy
_BLOCK_BYTES = 4 << 20
_HEAD_BYTES = 8
_LARGEST_32_BIT = 0xFFFF_FFFF

_TOP_LEVEL = frozenset([b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra"])


@dataclass(frozen=True, slots=True)
class Patch:
    """A box that takes the place of a broken stretch.

    Attributes:
        start, end: offsets in bytes.
        name: `free`, or `mdat` where samples run into the stretch.
        is_large: whether the size is written in 64 bits.
        n_broken: bytes of the stretch that belong to no box.
    """

    start: int
    end: int
    name: bytes
    is_large: bool
    n_broken: int

    def head(self) -> bytes:
        """The box's header."""
        n_bytes = self.end - self.start
        if self.is_large:
            return struct.pack(">I4sQ", 1, self.name, n_bytes)
        return struct.pack(">I4s", n_bytes, self.name)


class _TooManyBoxesError(Exception):
    """The file has more boxes than are worth a look."""


def find_patches(file: IO[bytes]) -> list[Patch]:
    """What makes the whole fragments of a file readable, in order; empty if nothing is broken, or
    the file is no fragmented MP4.

    Args:
        file: seekable; its position afterwards is undefined.
    """
    if not _is_fragmented(file):
        return []
    try:
        return _Walk(file).patches()
    except _TooManyBoxesError:
        return []


def patched(file: IO[bytes], patches: list[Patch]) -> IO[bytes]:
    """A copy of a file, as a temporary file."""
    copy = tempfile.TemporaryFile(buffering=0)  # so that `seek` moves the descriptor
    file.seek(0)
    shutil.copyfileobj(file, copy, _BLOCK_BYTES)
    for patch in patches:
        copy.seek(patch.start)
        copy.write(patch.head())
    return copy


def _is_fragmented(file: IO[bytes]) -> bool:
    return any(
        name == b"moov" and any(boxes_within(file, start, end, b"mvex"))
        for name, start, end in top_boxes(file)
    )


class _Walk:
    """Goes through a file's boxes, and from a broken one to the next whole fragment."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._n_left = _MAX_BOXES
        self._is_begun = False
        self._index_at: int | None = None  # of the fragment whose samples may come
        self._samples_at: int | None = None  # of the box just before, if it has samples

    def patches(self) -> list[Patch]:
        found: list[Patch] = []
        position = 0
        while position < self._size:
            box = self._box(position, self._size)
            if box is not None and self._is_in_place(box) and self._is_whole(box):
                self._note(position, box)
                position = box[2]
                continue
            end = self._next_fragment(position + 1)
            if not self._is_nothing(position, end):
                if box is not None and box[0] == b"mdat" and self._is_in_place(box):
                    self._samples_at = position  # its size is too large
                found.append(self._patch(position, end))
            self._index_at = self._samples_at = None
            position = end
        return found

    def _is_in_place(self, box: Box) -> bool:
        """Whether samples come behind the index of their fragment, directly or in several boxes."""
        return box[0] != b"mdat" or not self._is_begun or self._index_at is not None

    def _note(self, position: int, box: Box) -> None:
        if box[0] == b"moof":
            self._is_begun, self._index_at, self._samples_at = True, position, None
        elif box[0] == b"mdat":
            self._samples_at = position
        elif self._samples_at is not None:
            self._index_at = self._samples_at = None

    def _patch(self, start: int, end: int) -> Patch:
        """For a broken stretch."""
        n_broken = end - start
        if self._samples_at is not None:
            self._file.seek(self._samples_at)
            is_large = self._file.read(4) == b"\0\0\0\1"
            if is_large or end - self._samples_at <= _LARGEST_32_BIT:
                return Patch(self._samples_at, end, b"mdat", is_large, n_broken)
        return Patch(start, end, b"free", end - start > _LARGEST_32_BIT, n_broken)

    def _is_whole(self, box: Box) -> bool:
        """Whether a box can be one, and the index of a fragment has its structure. One that ends
        beyond the file was cut off, which is told elsewhere, unless fragments follow in it."""
        name, start, end = box
        if not _is_name(name):
            return False
        if end > self._size:
            return self._next_fragment(start) == self._size
        return name != b"moof" or self._is_whole_index(start, end)

    def _is_whole_index(self, start: int, end: int) -> bool:
        inner = self._fills(start, end)
        if not inner or any(name in _TOP_LEVEL for name, _, _ in inner):
            return False
        return all(self._fills(*where) for name, *where in inner if name == b"traf")

    def _fills(self, start: int, end: int) -> list[Box]:
        """The boxes in a stretch if they fill it; else none."""
        boxes: list[Box] = []
        while start < end:
            box = self._box(start, end)
            if box is None or not _is_name(box[0]) or box[2] > end:
                return []
            boxes.append(box)
            start = box[2]
        return boxes

    def _next_fragment(self, position: int) -> int:
        """Where the next whole fragment begins; the file's end if none does."""
        while position < self._size:
            self._file.seek(position)
            data = self._file.read(_BLOCK_BYTES + _HEAD_BYTES)
            at = data.find(b"moof", 4)
            while at >= 0:
                start = position + at - 4
                box = self._box(start, self._size)
                if box is not None and box[0] == b"moof" and box[2] <= self._size:
                    if self._is_whole_index(box[1], box[2]):
                        return start
                at = data.find(b"moof", at + 1)
            position += _BLOCK_BYTES
        return self._size

    def _is_nothing(self, start: int, end: int) -> bool:
        """Whether a stretch is too short for sound, or padding at the file's end."""
        self._file.seek(start)
        head = self._file.read(min(end - start, _BLOCK_BYTES))
        return end - start < 2 * _HEAD_BYTES or (end == self._size and not head.strip(b"\0"))

    def _box(self, position: int, end: int) -> Box | None:
        self._n_left -= 1
        if self._n_left < 0:
            raise _TooManyBoxesError
        return next(iter_boxes(self._file, position, end), None)


def _is_name(name: bytes) -> bool:
    return all(32 <= byte < 127 or byte == 0xA9 for byte in name)
