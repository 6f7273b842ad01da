"""Where a chunked audio file has its samples: how many bytes it promises, and how many it holds.

libsndfile and ffmpeg both silently repair the sizes of a WAV that was cut short (an interrupted
copy, a full disk), so the promised size is read from the header here. This module knows only sizes:
no codecs, sample rates or seconds.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_MAX_CHUNKS = 1_000  # a crafted file of empty chunks must not keep the reader busy
_MAX_OFFSET = 1 << 62  # a crafted 64-bit size must not overflow a seek
_CAF_DATA_PREFIX_BYTES = 4  # the edit count before the samples
_AIFF_DATA_PREFIX_BYTES = 8  # offset and block size before the samples
_W64_GUID_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")


@dataclass(frozen=True, slots=True)
class DataChunk:
    """Where the samples lie in a file.

    Attributes:
        declared_bytes: size that the header promises; None where a writer to a pipe left it open.
        held_bytes: bytes that the file has from the first sample on, at most `declared_bytes`.
        offset: of the first sample, in bytes.
        magic: the first four bytes, which identify the container.
    """

    declared_bytes: int | None
    held_bytes: int
    offset: int
    magic: bytes

    @property
    def is_cut(self) -> bool:
        return self.declared_bytes is not None and self.held_bytes < self.declared_bytes


def find_data_chunk(file: IO[bytes], start: int = 0) -> DataChunk | None:
    """Find the sample data of a WAV, RF64, BW64, W64, AIFF, AU or CAF file.

    Args:
        file: seekable; its position afterwards is undefined.
        start: offset at which the audio file begins in it.

    Returns:
        None for any other kind of file, or if the header breaks off before the samples.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    head = file.read(40)
    try:
        found = _locate(file, head, start)
    except struct.error:  # the header itself is cut
        return None
    if found is None:
        return None
    offset, declared = found
    held = max(0, size - offset)
    held = held if declared is None else min(held, declared)
    return DataChunk(declared, held, offset, head[:4])


def _locate(file: IO[bytes], head: bytes, start: int) -> tuple[int, int | None] | None:
    """Offset of the first sample and the promised size in bytes."""
    magic, form = head[:4], head[8:12]
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _locate_wav(file, start, ">" if magic == b"RIFX" else "<")
    if magic == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _behind(
            _first(iter_chunks(file, start + 12, ">4sI"), b"SSND"), _AIFF_DATA_PREFIX_BYTES
        )
    if magic == b".snd":
        offset, declared = struct.unpack_from(">II", head, 4)
        return start + offset, _known_32(declared)
    if magic == b"caff":
        chunks = iter_chunks(file, start + 8, ">4sQ", align=1)
        return _behind(_first(chunks, b"data"), _CAF_DATA_PREFIX_BYTES)
    if head[:16] == _W64_RIFF:
        return _locate_w64(file, start)
    return None


def _locate_wav(file: IO[bytes], start: int, order: str) -> tuple[int, int | None] | None:
    size_64: int | None = None
    for name, offset, size in iter_chunks(file, start + 12, f"{order}4sI"):
        if name == b"ds64":
            file.seek(offset + 8)  # after the size of the whole file
            (size_64,) = struct.unpack(f"{order}Q", file.read(8))
        if name == b"data":
            if size == 0xFFFFFFFF and size_64 is not None:
                return offset, _known_64(size_64)
            return offset, _known_32(size)
    return None


def _locate_w64(file: IO[bytes], start: int) -> tuple[int, int | None] | None:
    offset = start + 40  # riff GUID, file size, wave GUID
    for _ in range(_MAX_CHUNKS):
        if offset > _MAX_OFFSET:
            break
        file.seek(offset)
        guid, size = struct.unpack("<16sQ", file.read(24))
        if guid == b"data" + _W64_GUID_TAIL:
            return offset + 24, None if size <= 24 else _known_64(size - 24)
        offset += max(24, (size + 7) & ~7)  # sizes count their 24-byte header; 8-byte aligned
    return None


def _behind(found: tuple[int, int | None] | None, n_bytes: int) -> tuple[int, int | None] | None:
    """Skip the `n_bytes` that a chunk has before its samples."""
    if found is None:
        return None
    offset, size = found
    return offset + n_bytes, None if size is None else max(0, size - n_bytes)


def iter_chunks(
    file: IO[bytes], offset: int, layout: str, align: int = 2
) -> Iterator[tuple[bytes, int, int]]:
    """Name, payload offset and payload size of one chunk after another."""
    head_bytes = struct.calcsize(layout)
    for _ in range(_MAX_CHUNKS):
        if offset > _MAX_OFFSET:
            return
        file.seek(offset)
        name, size = struct.unpack(layout, file.read(head_bytes))
        yield name, offset + head_bytes, size
        offset += head_bytes + size + (-size) % align


def _first(
    chunks: Iterator[tuple[bytes, int, int]], wanted: bytes
) -> tuple[int, int | None] | None:
    for name, offset, size in chunks:
        if name == wanted:
            return offset, _known_64(size) if size >> 32 else _known_32(size)
    return None


def _known_32(size: int) -> int | None:
    """A 32-bit size; None if it is the placeholder of a writer that could not seek back.

    Placeholders seen are 0, and 2 GiB or 4 GiB less up to a few kilobytes (sox, arecord, ffmpeg,
    browsers).
    """
    is_open = size == 0 or 0x7FFF0000 <= size <= 0x80000000 or size >= 0xFFFF0000
    return None if is_open else size


def _known_64(size: int) -> int | None:
    return None if size == 0 or size >= _MAX_OFFSET else size
