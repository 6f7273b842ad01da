"""Which stretches of a fragmented MP4 file are whole.

ffmpeg (as of 9.0) ends without a word at a broken box, skips a fragment whose index (`moof`) is
damaged, and refuses a whole file for some faults in its middle. Every fragment stands alone. So a
file without the broken ones can be read to its end, and its clock shows the gap.
"""

import io
from typing import IO

from deployments.audio.iso_media import Box, iter_boxes, top_boxes

_BLOCK_BYTES = 4 << 20
_ANYWHERE = frozenset([b"free", b"skip", b"uuid", b"meta", b"udta"])
_IN_FRAGMENT = _ANYWHERE | frozenset([b"mfhd", b"traf", b"pssh"])
_IN_TRACK = _ANYWHERE | frozenset(
    [
        b"tfhd",
        b"tfdt",
        b"trun",
        b"sdtp",
        b"saiz",
        b"saio",
        b"senc",
        b"sbgp",
        b"sgpd",
        b"subs",
        b"trik",
    ]
)
_AT_TOP = _ANYWHERE | frozenset(
    [
        b"ftyp",
        b"styp",
        b"moov",
        b"moof",
        b"mdat",
        b"mfra",
        b"sidx",
        b"ssix",
        b"emsg",
        b"prft",
        b"wide",
    ]
)

Span = tuple[int, int]
"""Start and end offset."""


def find_faults(file: IO[bytes]) -> tuple[list[Span], list[Span]] | None:
    """Stretches of a file that are whole, and broken ones that may hold sound; None if nothing is
    broken, or the file is no fragmented MP4.

    Args:
        file: seekable; its position afterwards is undefined.
    """
    if not any(name in (b"moof", b"moov") for name, _, _ in top_boxes(file)):
        return None
    size = file.seek(0, io.SEEK_END)
    whole: list[Span] = []
    broken: list[Span] = []
    position, n_fragments, has_index, before = 0, 0, False, b""
    while position < size:
        box = next(iter_boxes(file, position, size), None)
        end = size if box is None else min(box[2], size)
        is_whole = box is not None and _is_whole(file, box, size)
        # Samples of a fragment come behind its index.
        is_orphan = box is not None and box[0] == b"mdat" and n_fragments > 0 and not has_index
        if box is None or not is_whole or is_orphan:
            before = b""
            end = _next_fragment(file, position + 1, size)
            broken.append((position, end))
        else:
            whole.append((position, end))
            n_fragments += box[0] == b"moof"
            goes_on = has_index and (box[0] == b"mdat" or before != b"mdat")
            has_index, before = box[0] == b"moof" or goes_on, box[0]
        position = end
    broken = [span for span in broken if not _is_padding(file, span, size)]
    return (whole, broken) if n_fragments and broken else None


def _is_whole(file: IO[bytes], box: Box, size: int) -> bool:
    """Whether a box is one of a file's top level, and the index of a fragment has its structure.
    One that ends beyond the file was cut off, which is told elsewhere."""
    name, start, end = box
    if name not in _AT_TOP:
        return False
    return name != b"moof" or end > size or _is_whole_fragment(file, start, end)


def _is_whole_fragment(file: IO[bytes], start: int, end: int) -> bool:
    boxes = list(iter_boxes(file, start, end))
    for name, inner_start, inner_end in boxes:
        if name not in _IN_FRAGMENT:
            return False
        if name == b"traf":
            inner = list(iter_boxes(file, inner_start, inner_end))
            is_known = all(kind in _IN_TRACK for kind, _, _ in inner)
            if not (inner and is_known and inner[-1][2] == inner_end):
                return False
    return bool(boxes) and boxes[-1][2] == end


def _next_fragment(file: IO[bytes], position: int, size: int) -> int:
    """Where the next whole fragment begins; the file's end if none does."""
    while position < size:
        file.seek(position)
        data = file.read(_BLOCK_BYTES + 8)
        at = data.find(b"moof", 4)
        while at >= 0:
            start = position + at - 4
            box = next(iter_boxes(file, start, size), None)
            if box is not None and box[0] == b"moof" and _is_whole_fragment(file, box[1], box[2]):
                return start
            at = data.find(b"moof", at + 1)
        position += _BLOCK_BYTES
    return size


def _is_padding(file: IO[bytes], span: Span, size: int) -> bool:
    """Whether a stretch at the file's end has nothing in it."""
    start, end = span
    file.seek(start)
    return end == size and not file.read(min(end - start, _BLOCK_BYTES)).strip(b"\0")
