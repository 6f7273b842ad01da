"""Finds files that were joined behind another one, and that a decoder passed over without a word.

ffmpeg (as of 9.0) reads only the first of several files of most kinds that were joined by `cat`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from deployments.audio.iso_media import top_boxes

_BLOCK_BYTES = 8 << 20
_HEAD_BYTES = 32
_JOINED = "a second file was joined to this one and was not read whole: send it by itself"


@dataclass(frozen=True, slots=True)
class _Head:
    """How a file of some kind begins: bytes that are quick to find, and a pattern that begins
    `before` bytes earlier."""

    anchor: bytes
    pattern: "re.Pattern[bytes]"
    before: int = 0


_AVI = _Head(b"AVI LIST", re.compile(rb"RIFF....AVI LIST", re.DOTALL), 8)
_ASF = _Head(
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),
)
_FLV = _Head(b"FLV\x01", re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09"))
_TTA = _Head(b"TTA1", re.compile(rb"TTA1[\x01\x02]\0[\x01-\x20]\0"))
_FLAC = _Head(b"fLaC\0\0\0\x22", re.compile(rb"fLaC\0\0\0\x22"))
_OTHERS = (
    _AVI,
    _ASF,
    _FLV,
    _TTA,
    _Head(b"OggS\0\x02", re.compile(rb"OggS\0\x02\0{8}")),
    _Head(b"WAVEfmt ", re.compile(rb"RIFF....WAVEfmt ", re.DOTALL), 8),
    _Head(b"ftyp", re.compile(rb"\0\0\0.ftyp(?:isom|iso\d|mp4\d|M4A |qt  )", re.DOTALL), 4),
)
_HEADS = {
    "avi": (_AVI,),
    "asf": (_ASF,),
    "flv": (_FLV,),
    "tta": (_TTA,),
    # Of these, ffmpeg reads on where the same kind follows, and passes over any other.
    **dict.fromkeys(("mp3", "aac", "ac3"), (*_OTHERS, _FLAC)),
    "flac": _OTHERS,
}


def find_unread(file: IO[bytes], container: str) -> str | None:
    """What was not read, in a sentence; None if nothing tells of any.

    Args:
        file: a real file that has been decoded; its position does not change.
        container: the first name of ffmpeg's demuxer.
    """
    if container == "mov":
        names = [name for name, _, _ in top_boxes(file)]
        return _JOINED if names.count(b"moov") > 1 or names.count(b"ftyp") > 1 else None
    return _JOINED if _has_again(file, _HEADS.get(container, ())) else None


def _has_again(file: IO[bytes], heads: Sequence[_Head]) -> bool:
    """Whether one of these comes behind the file's first bytes."""
    descriptor, position = file.fileno(), 1
    while heads and len(data := os.pread(descriptor, _BLOCK_BYTES + _HEAD_BYTES, position)):
        if any(_is_in(data, head) for head in heads):
            return True
        position += _BLOCK_BYTES
    return False


def _is_in(data: bytes, head: _Head) -> bool:
    at = data.find(head.anchor, head.before)
    while at >= 0:
        if head.pattern.match(data, at - head.before):
            return True
        at = data.find(head.anchor, at + 1)
    return False
