"""Reads the few boxes of an MP4 or MOV file that ffmpeg does not report (ISO/IEC 14496-12).

Only headers are read: a few hundred bytes, however long the file is.
"""

import io
import struct
from collections.abc import Iterator
from typing import IO

_MAX_BOXES = 100_000  # two per fragment; a crafted file must not keep the reader busy
_MAX_TAGS_BYTES = 1 << 20
_EDIT_LIST_ENTRIES = 16
_KNOWN_FIRST = frozenset([b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"wide", b"free", b"skip"])
Box = tuple[bytes, int, int]
"""Type, offset of the payload, and offset of the end, which may lie beyond the file's end."""


def top_boxes(file: IO[bytes]) -> list[Box]:
    """The top-level boxes of the file; none if it is another kind of file."""
    size = file.seek(0, io.SEEK_END)
    boxes = list(iter_boxes(file, 0, size))
    return boxes if boxes and boxes[0][0] in _KNOWN_FIRST else []


def trims_delay(file: IO[bytes]) -> bool:
    """Whether edit lists or the iTunes tag say how much of the beginning is encoder delay.

    Also True if there is no `moov` to read them from: then nothing is known to be wrong.
    """
    for name, start, end in top_boxes(file):
        if name == b"moov":
            return _starts_inside_media(file, start, end) or _has_itunes_tag(file, start, end)
    return True


def _starts_inside_media(file: IO[bytes], start: int, end: int) -> bool:
    for track_start, track_end in boxes_within(file, start, end, b"trak"):
        for edits_start, edits_end in boxes_within(file, track_start, track_end, b"edts"):
            for list_start, _ in boxes_within(file, edits_start, edits_end, b"elst"):
                if _is_sound(file, track_start, track_end) and _media_time(file, list_start) > 0:
                    return True
    return False


def _is_sound(file: IO[bytes], start: int, end: int) -> bool:
    for media_start, media_end in boxes_within(file, start, end, b"mdia"):
        for handler, _ in boxes_within(file, media_start, media_end, b"hdlr"):
            file.seek(handler + 8)  # version, flags, a reserved word
            return file.read(4) == b"soun"
    return False


def _media_time(file: IO[bytes], offset: int) -> int:
    """The media time at which the first edit that is not a pause begins, in the track's units."""
    file.seek(offset)
    version, n_entries = struct.unpack(">B3xI", file.read(8).ljust(8, b"\0"))
    entry = struct.Struct(">QqI" if version == 1 else ">IiI")
    for _ in range(min(n_entries, _EDIT_LIST_ENTRIES)):
        data = file.read(entry.size)
        if len(data) < entry.size:
            break
        media_time: int = entry.unpack(data)[1]
        if media_time != -1:
            return media_time
    return 0


def _has_itunes_tag(file: IO[bytes], start: int, end: int) -> bool:
    for tags_start, tags_end in boxes_within(file, start, end, b"udta"):
        file.seek(tags_start)
        return b"iTunSMPB" in file.read(min(tags_end - tags_start, _MAX_TAGS_BYTES))
    return False


def boxes_within(file: IO[bytes], start: int, end: int, name: bytes) -> Iterator[tuple[int, int]]:
    """Where the payloads of a stretch's boxes of a type begin and end, in bytes of the file."""
    for found, inner_start, inner_end in iter_boxes(file, start, end):
        if found == name:
            yield inner_start, min(inner_end, end)


def iter_boxes(file: IO[bytes], offset: int, end: int) -> Iterator[Box]:
    """Boxes in a stretch of a file, up to the first that cannot be one. The last may end beyond the
    stretch."""
    for _ in range(_MAX_BOXES):
        file.seek(offset)
        head = file.read(min(16, max(0, end - offset)))
        if len(head) < 8:
            return
        size, name = struct.unpack(">I4s", head[:8])
        n_head = 8
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
            n_head = 16
        if size == 0:  # up to the end
            size = end - offset
        if size < n_head or size >> 62:
            return
        yield name, offset + n_head, offset + size
        offset += size
