"""Finds what a decoder passed over without a word: broken structure, and files joined behind.

ffmpeg (as of 9.0) ends quietly at a broken box of an MP4 file, skips fragments whose index is
damaged, and reads only the first of several files of most kinds that were joined by `cat`.
"""

import os
import re
from typing import IO

from deployments.audio.iso_media import Box, top_boxes

_BLOCK_BYTES = 8 << 20
_HEAD_BYTES = 32
_JOINED = "a second file was joined to this one and was not read whole: send it by itself"
_HEADS = {
    "avi": re.compile(rb"RIFF....AVI LIST", re.DOTALL),
    "asf": re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),
    "flv": re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09"),
    "tta": re.compile(rb"TTA1[\x01\x02]\0[\x01-\x20]\0"),
}
_BETWEEN = frozenset(
    [b"styp", b"sidx", b"ssix", b"emsg", b"prft", b"free", b"skip", b"wide", b"uuid", b"meta"]
)
_KNOWN = _BETWEEN | frozenset(
    [b"ftyp", b"moov", b"moof", b"mdat", b"mfra", b"udta", b"pdin", b"pnot", b"PICT", b"junk"]
)


def find_unread(file: IO[bytes], container: str) -> str | None:
    """What was not read, in a sentence; None if nothing tells of any.

    Args:
        file: a real file that has been decoded; its position does not change.
        container: the first name of ffmpeg's demuxer.
    """
    if container == "mov":
        return _find_in_boxes(file)
    head = _HEADS.get(container)
    return _JOINED if head is not None and _has_again(file, head) else None


def _find_in_boxes(file: IO[bytes]) -> str | None:
    size = os.fstat(file.fileno()).st_size
    boxes = top_boxes(file)
    names = [name for name, _, _ in boxes]
    if names.count(b"moov") > 1 or names.count(b"ftyp") > 1:
        return _JOINED
    for name, start, end in boxes:
        if name not in _KNOWN or (end == size and name == b"moof"):
            return f"its structure is broken at byte {start}: sound behind that may be lost"
    if boxes and boxes[-1][2] + _HEAD_BYTES < size:
        return f"its structure is broken at byte {boxes[-1][2]}: nothing behind that can be decoded"
    if b"moof" in names and _has_orphan(boxes):
        return "the index of a fragment is damaged: its sound is lost"
    return None


def _has_orphan(boxes: list[Box]) -> bool:
    """Whether samples of a fragmented file lack the `moof` before them."""
    has_index = False
    is_fragment = False
    for name, _, _ in boxes:
        is_fragment |= name == b"moof"
        if name == b"mdat":
            if is_fragment and not has_index:
                return True
            has_index = False
        elif name == b"moof":
            has_index = True
    return False


def _has_again(file: IO[bytes], head: "re.Pattern[bytes]") -> bool:
    """Whether a header comes a second time, behind the file's first bytes."""
    descriptor, position = file.fileno(), 1
    while len(data := os.pread(descriptor, _BLOCK_BYTES + _HEAD_BYTES, position)):
        if head.search(data):
            return True
        position += _BLOCK_BYTES
    return False
