"""What follows the samples of an audio file and is not sound: chunks, tags, padding.

Trailers taken for samples would be noise; samples taken for trailers would be lost. So a chunk is
believed by its name alone only if the name is known. A chunk with any other name is believed only
if chunk after chunk leads from there to the end.
"""

import re
import struct
from collections.abc import Iterator
from typing import IO

_MAX_CHUNKS = 1_000
_SEARCH_BYTES = 16 << 20  # tags with pictures are a few megabytes
_MAX_PADDING_BYTES = 1 << 20
_NO_TRAILERS = frozenset(
    [b"data", b"SSND", b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff", b".snd", b"riff"]
)
_W64_GUID_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")

_RIFF_NAMES = (
    b"LIST id3  ID3  cue  bext PAD  JUNK junk Junk FLLR fact smpl inst iXML axml aXML afsp levl "
    b"PEAK _PMX DISP plst acid strc cart chna umid ubxt dbmd MD5  minf elm1 regn SAUR SyLp Cr8r "
    b"DGDA ovwf r64m slnt labl note ltxt link wavl mext qlty pad "
)
_AIFF_NAMES = (
    b"COMM MARK INST COMT MIDI AESD APPL NAME AUTH (c)  ANNO FVER SAXL ID3  LIST bext FLLR PEAK "
    b"CHAN basc trns cate AFsp "
)
_CAF_NAMES = b"desc chan info free uuid pakt kuki strg mark regn inst midi ovvw peak edct umid "


def _names(joined: bytes) -> frozenset[bytes]:
    return frozenset(joined[i : i + 4] for i in range(0, len(joined), 5))


class Trailers:
    """Finds the trailers of one file.

    Args:
        file: seekable; its position afterwards is undefined.
        magic: the file's first four bytes.
    """

    def __init__(self, file: IO[bytes], magic: bytes) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._is_w64 = magic == b"riff"
        self._layout, self._align, self._known = {
            b"FORM": (">4sI", 2, _names(_AIFF_NAMES)),
            b"RIFX": (">4sI", 2, _names(_RIFF_NAMES)),
            b"caff": (">4sQ", 1, _names(_CAF_NAMES)),
            b"riff": ("<4s12sQ", 8, _names(_RIFF_NAMES)),
            b".snd": ("<4sI", 1, frozenset[bytes]()),
        }.get(magic, ("<4sI", 2, _names(_RIFF_NAMES)))
        self._head_bytes = struct.calcsize(self._layout)

    def end_of(self, position: int, limit: int) -> int:
        """The end of the chunks and tags that begin at `position`; `position` if there are none.

        Args:
            limit: where the file, or this part of it, ends.
        """
        sure = position
        for end, is_known in self._walk(position, limit):
            if is_known or end >= limit:
                sure = min(end, limit)  # the file may be cut off in its last chunk
        return sure

    def start_before(self, start: int, limit: int) -> int:
        """The start of the chunks and tags that end at `limit`; `limit` if there are none.

        Args:
            start: nothing before it is looked at.
        """
        limit = self._before_tags(start, limit)
        start = max(start, limit - _SEARCH_BYTES)
        if not self._known or start >= limit:
            return limit
        names = re.compile(b"|".join(re.escape(name) for name in sorted(self._known)))
        for match in names.finditer(self._read(start, limit - start)):
            position = start + match.start()
            ends = [end for end, _ in self._walk(position, limit)]
            if ends and limit - 1 <= ends[-1] <= limit + 1:  # with or without the last padding byte
                return position
        return limit

    def data_at(self, position: int) -> tuple[int, int] | None:
        """Start and end of the samples if another sample chunk is at `position`, else None."""
        head = self._read(position, self._head_bytes)
        if self._is_w64 or head[:4] not in (b"data", b"SSND") or len(head) < self._head_bytes:
            return None
        start = position + self._head_bytes
        end = min(start + struct.unpack(self._layout, head)[-1], self._size)
        # In AIFF, the offset and the size of blocks stand before the samples.
        return min(start + 8, end) if head[:4] == b"SSND" else start, end

    def is_padding(self, position: int, limit: int) -> bool:
        """Whether only a little is left, all of it zeros or printable text. Megabytes of zeros are
        a pause instead, which is kept so that what follows has the right times."""
        if limit - position > _MAX_PADDING_BYTES:
            return False
        text = self._read(position, limit - position).strip(b"\0")
        return all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in text)

    def _walk(self, position: int, limit: int) -> Iterator[tuple[int, bool]]:
        """Yields the end of one chunk or tag after another, and whether it is of a known kind."""
        for _ in range(_MAX_CHUNKS):
            if position >= limit:
                return
            if (tag_end := self._tag_end(position, limit)) is not None:
                yield tag_end, True
                position = tag_end
                continue
            head = self._read(position, self._head_bytes)
            if len(head) < self._head_bytes:
                return
            fields = struct.unpack(self._layout, head)
            name, size = fields[0], fields[-1]
            if self._is_w64:
                if fields[1] != _W64_GUID_TAIL or size < self._head_bytes:
                    return
                size -= self._head_bytes
            is_known = name in self._known
            end = position + self._head_bytes + size
            if name in _NO_TRAILERS or not _is_printable(name) or (end > limit and not is_known):
                return
            yield end, is_known
            # Some writers leave out the padding.
            padded = end + (position - end) % self._align
            position = end if self._is_chunk(end, limit) else padded

    def _is_chunk(self, position: int, limit: int) -> bool:
        return position < limit and self._read(position, 4) in self._known

    def _tag_end(self, position: int, limit: int) -> int | None:
        """The end of a tag as in MP3 files (ID3, APE); None if there is none at `position`."""
        head = self._read(position, 32)
        if head[:3] == b"TAG" and limit - position == 128:
            return limit
        if head[:8] == b"APETAGEX" and len(head) == 32:
            return position + 32 + int(struct.unpack_from("<I", head, 12)[0])
        if head[:3] == b"ID3" and head[3:4] in b"\2\3\4" and max(head[6:10], default=255) < 128:
            size = sum(
                byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
            )
            return position + 10 + size
        return None

    def _before_tags(self, start: int, limit: int) -> int:
        if limit - 128 >= start and self._read(limit - 128, 3) == b"TAG":
            limit -= 128
        footer = self._read(limit - 32, 32) if limit - 32 >= start else b""
        if footer[:8] == b"APETAGEX":
            size, _, flags = struct.unpack_from("<III", footer, 12)
            limit = max(start, limit - size - (32 if flags >> 31 else 0))
        return limit

    def _read(self, position: int, n_bytes: int) -> bytes:
        self._file.seek(position)
        return self._file.read(n_bytes)


def _is_printable(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)
