"""Which bytes of a chunked audio file are samples, where the size in its header does not tell.

A recorder may have written the size early and gone on, a size may have wrapped at 4 GiB, or files
may have been joined by `cat`. Then more samples, or another file, follow the promised end. Chunks
and tags that follow it are not sound (`trailers`).
"""

import io
import os
import re
from dataclasses import dataclass, field
from typing import IO

from deployments.audio.header import DataChunk, find_data_chunk
from deployments.audio.trailers import Trailers

_MAX_PARTS = 10_000
_SCAN_BYTES = 8 << 20
_MAGICS = re.compile(
    rb"(?:RIFF|RIFX|RF64|BW64)....WAVE|FORM....AIF[FC]|riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb|"
    rb"\.snd\x00\x00......\x00\x00\x00[\x01-\x1b]|caff\x00\x01\x00\x00desc",
    re.DOTALL,
)
_MAGIC_BYTES = 24
# The bytes by which to search for a header, and how many bytes of the header precede them.
_ANCHORS = {
    b"FORM": (b"AIF", 8),
    b".snd": (b".snd\0", 0),
    b"caff": (b"caff\0", 0),
    b"riff": (b"riff\x2e", 0),
}
# Shorter than any word: the rest of a sample, or padding of an unknown kind.
_MIN_TAIL_BYTES = 1_024


@dataclass(slots=True)
class Part:
    """One of the files that were joined into the file.

    Attributes:
        start: offset of its header.
        spans: start and end offset of each stretch of its samples.
    """

    start: int
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        return sum(end - start for start, end in self.spans)


def find_parts(file: IO[bytes], chunk: DataChunk) -> list[Part]:
    """The files that were joined into this one (usually just one), and where their samples lie.

    Args:
        file: seekable; its position afterwards is undefined.
        chunk: what the first header says.
    """
    return _Finder(file, chunk).find()


class _Finder:
    def __init__(self, file: IO[bytes], chunk: DataChunk) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._parts = [Part(0)]
        self._magic = chunk.magic
        self._trailers = Trailers(file, chunk.magic)
        self._position = self._take_data(chunk)

    def find(self) -> list[Part]:
        while self._position < self._size and len(self._parts) < _MAX_PARTS:
            padded = self._position + 1
            if not (self._take_known(self._position) or self._take_known(padded)):
                self._take_samples()
        return self._parts

    def _take_data(self, chunk: DataChunk) -> int:
        """Take the samples that a header promises; returns where they end. A size that was left
        open promises none."""
        end = chunk.offset + (0 if chunk.declared_bytes is None else chunk.held_bytes)
        if end > chunk.offset:
            self._parts[-1].spans.append((chunk.offset, end))
        return end

    def _take_known(self, position: int) -> bool:
        """Take another header or sample chunk, or skip chunks and tags; returns whether one of
        these is at `position`."""
        self._file.seek(position)
        head = self._file.read(_MAGIC_BYTES)
        if _MAGICS.match(head) and (chunk := find_data_chunk(self._file, position)) is not None:
            self._parts.append(Part(position))
            self._magic = chunk.magic
            self._trailers = Trailers(self._file, chunk.magic)
            self._position = self._take_data(chunk)
            return True
        if (data := self._trailers.data_at(position)) is not None:
            self._parts[-1].spans.append(data)
            self._position = data[1]
            return True
        end = self._trailers.end_of(position, self._size)
        if end == position:
            return False
        self._position = end
        return True

    def _take_samples(self) -> None:
        """Take samples up to the next header or the end, without the chunks just before it."""
        start, limit = self._position, self._next_header(self._position)
        end = self._trailers.start_before(start, limit)
        self._position = limit
        spans = self._parts[-1].spans
        is_promised = bool(spans)
        if end - start < _MIN_TAIL_BYTES and is_promised:
            return
        if is_promised and self._trailers.is_padding(start, end):
            return
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))

    def _next_header(self, position: int) -> int:
        """Offset of the next header of a file of the same kind. Each block is searched only once,
        because there may be gigabytes to read."""
        anchor, before = _ANCHORS.get(self._magic, (b"WAVE", 8))
        position += 1
        while (position := self._skip_hole(position)) < self._size:
            self._file.seek(position)
            data = self._file.read(_SCAN_BYTES + _MAGIC_BYTES)
            found = data.find(anchor, before)
            while 0 <= found:
                start = found - before
                if _MAGICS.match(data, start) and find_data_chunk(self._file, position + start):
                    return position + start
                found = data.find(anchor, found + 1)
            position += _SCAN_BYTES
        return self._size

    def _skip_hole(self, position: int) -> int:
        """The next byte at or after `position` that is stored on the disk: a recorder may have
        reserved gigabytes."""
        try:
            return os.lseek(self._file.fileno(), position, os.SEEK_DATA)
        except io.UnsupportedOperation:  # it is in memory
            return position
        except OSError:  # no stored byte follows
            return self._size
