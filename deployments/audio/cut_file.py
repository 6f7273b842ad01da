"""Whether a file ends inside one of its own units, as only a truncated file does.

This is for containers that state no length in their header. It shows that something is missing, not
how much. `header` and ffmpeg handle formats whose header promises a length.
"""

import io
from typing import IO

from deployments.audio.iso_media import top_boxes
from deployments.audio.mpeg_frames import FRAMED, MIN_FRAMES, read_frame

_TAIL_BYTES = 1 << 17  # two of the largest Ogg pages, or 16 of the largest AAC frames
_TS_PACKET_BYTES = (188, 192, 204)  # plain, with a time code (M2TS), with error correction
_TS_SYNC = 0x47
_OGG_HEAD_BYTES = 27
_PS_PACK = 0xBA
_OPEN_RIFF_BYTES = 0x7FFF0000


def ends_inside_a_unit(file: IO[bytes], container: str) -> bool:
    """Whether the last box, packet, page or frame is incomplete.

    Args:
        file: seekable; its position afterwards is undefined.
        container: the first name of ffmpeg's demuxer.
    """
    size = file.seek(0, io.SEEK_END)
    if container == "mov":
        boxes = top_boxes(file)
        return bool(boxes) and boxes[-1][2] > size
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    if container == "mpegts":
        return _cuts_ts_packet(file, size)
    if container == "mpeg":
        return _cuts_ps_packet(tail)
    if container == "avi":
        return _cuts_riff(file, size)
    if container == "ogg":
        return _cuts_ogg_page(tail)
    return container in FRAMED and _cuts_frame(tail, container)


def lacks_index(file: IO[bytes]) -> bool:
    """Whether this is an MP4 or MOV file without its index, the `moov` box."""
    names = {name for name, _, _ in top_boxes(file)}
    return bool(names) and b"moov" not in names


def _cuts_ts_packet(file: IO[bytes], size: int) -> bool:
    file.seek(0)
    head = file.read(2_048)
    for n_bytes in _TS_PACKET_BYTES:
        first = head.find(_TS_SYNC)
        syncs = head[first::n_bytes] if first >= 0 else b""
        if len(syncs) > MIN_FRAMES and set(syncs) == {_TS_SYNC}:
            before = first if n_bytes == 192 else 0
            return (size - first + before) % n_bytes != 0
    return False


def _cuts_ps_packet(tail: bytes) -> bool:
    """Follow a program stream from a pack header to its end (ISO/IEC 13818-1)."""
    offset = tail.find(b"\0\0\1\xba")
    while offset >= 0 and tail[offset : offset + 3] == b"\0\0\1" and offset + 14 <= len(tail):
        kind = tail[offset + 3]
        if kind == _PS_PACK:
            is_mpeg_2 = tail[offset + 4] >> 6 == 1
            offset += 14 + (tail[offset + 13] & 7) if is_mpeg_2 else 12
        elif kind < _PS_PACK:  # the end code, or something else
            return False
        else:
            offset += 6 + int.from_bytes(tail[offset + 4 : offset + 6], "big")
    return offset > len(tail)


def _cuts_riff(file: IO[bytes], size: int) -> bool:
    file.seek(0)
    head = file.read(8)
    n_bytes = int.from_bytes(head[4:8], "little")
    is_promise = 0 < n_bytes < _OPEN_RIFF_BYTES  # a writer to a pipe leaves the size open
    return head[:4] == b"RIFF" and is_promise and n_bytes + 8 > size


def _cuts_ogg_page(tail: bytes) -> bool:
    start = tail.rfind(b"OggS")
    if start < 0:
        return False
    n_segments = tail[start + _OGG_HEAD_BYTES - 1 : start + _OGG_HEAD_BYTES]
    if not n_segments:
        return True
    sizes = tail[start + _OGG_HEAD_BYTES :][: n_segments[0]]
    end = start + _OGG_HEAD_BYTES + n_segments[0] + sum(sizes)
    return len(sizes) < n_segments[0] or end > len(tail)


def _cuts_frame(tail: bytes, container: str) -> bool:
    """Follow frames, starting at the first one that others follow. Tags after the last frame do
    not count as one."""
    start = tail.find(b"\xff")
    while start >= 0:
        offset, n_frames = start, 0
        while (frame := read_frame(tail, offset, container)) is not None:
            if offset + frame.n_bytes > len(tail):
                break
            offset += frame.n_bytes
            n_frames += 1
        if n_frames >= MIN_FRAMES:
            return frame is not None
        start = tail.find(b"\xff", start + 1)
    return False
