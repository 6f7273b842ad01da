"""Presents stretches of a file as a file of their own."""

import bisect
import io
import itertools
import struct
import tempfile
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from deployments.audio.sample_parts import Part

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_COPY_BYTES = 8 << 20
_MAX_WAV_BYTES = 0xFFFF_0000


class SpanFile(io.RawIOBase):
    """Reads stretches of `file` one after another, and changes its position.

    Args:
        spans: start and end offset of each stretch, in bytes.
    """

    def __init__(self, file: IO[bytes], spans: Sequence[tuple[int, int]]) -> None:
        self._file = file
        self._spans = list(spans)
        lengths = [end - start for start, end in spans]
        self._starts = [0, *itertools.accumulate(lengths)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}
        self._position = max(0, base[whence] + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer; read less only at the end, because libsndfile takes a short read for the
        end."""
        view = memoryview(buffer).cast("B")
        n_read = 0
        while n_read < len(view) and self._position < self._starts[-1]:
            index = bisect.bisect_right(self._starts, self._position) - 1
            start, end = self._spans[index]
            place = start + self._position - self._starts[index]
            self._file.seek(place)
            data = self._file.read(min(len(view) - n_read, end - place))
            if not data:  # the file has become shorter meanwhile
                break
            view[n_read : n_read + len(data)] = data
            self._position += len(data)
            n_read += len(data)
        return n_read


def splice_wav(file: IO[bytes], part: Part) -> IO[bytes]:
    """A temporary WAV file with all of a part's samples and their true size, for readers that need
    a real file and believe its size."""
    spliced = tempfile.TemporaryFile()
    file.seek(part.start)
    head = bytearray(file.read(part.spans[0][0] - part.start))
    size = part.n_bytes if part.n_bytes <= _MAX_WAV_BYTES else 0  # 0: as far as the file goes
    head[:4] = b"RIFF"  # an RF64 would have its size elsewhere
    struct.pack_into("<I", head, len(head) - 4, size)
    spliced.write(head)
    spans = SpanFile(file, part.spans)
    while data := spans.read(_COPY_BYTES):
        spliced.write(data)
    spliced.flush()
    return spliced
