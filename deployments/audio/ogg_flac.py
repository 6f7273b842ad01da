"""Where FLAC in an Ogg file really begins.

ffmpeg (as of 9.0) counts the packets of the first page of sound from 0, and those of the next pages
by the file's own positions. If a recording was cut out of a longer stream, its clock seems to leap
after the first page.
"""

import struct
from typing import IO

# Magic, version, flags, position, serial, number, CRC, segments.
_PAGE = struct.Struct("<4sBBqIIIB")
_MAX_PAGES = 2_000
_BEGINS = 2
_MAGIC = b"\x7fFLAC"


def end_of_first_page(file: IO[bytes]) -> int | None:
    """The position, in samples, at which the first page of sound ends; None if that is unknown, or
    the file is not FLAC in Ogg.

    Args:
        file: seekable; its position afterwards is undefined.
    """
    position, serial = 0, None
    for _ in range(_MAX_PAGES):
        file.seek(position)
        head = file.read(_PAGE.size)
        if len(head) < _PAGE.size or head[:4] != b"OggS":
            return None
        _, _, flags, end, its_serial, _, _, n_segments = _PAGE.unpack(head)
        n_bytes = sum(file.read(n_segments))
        if flags & _BEGINS and file.read(len(_MAGIC)) == _MAGIC:
            serial = its_serial
        elif its_serial == serial and end > 0:
            return int(end)
        position += _PAGE.size + n_segments + n_bytes
    return None
