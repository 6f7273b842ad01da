"""Which frames of an ALAC stream in a CAF file are sound.

The packet table of a CAF file counts the priming frames, the frames of sound, and the frames that
pad the last packet. An ALAC packet also states its own length, and ffmpeg (as of 9.0) removes the
padding in both ways, so up to 4,095 frames at the end are lost. Therefore ffmpeg is told to output
everything, and the table is applied here.
"""

import struct
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt

from deployments.audio.header import iter_chunks
from deployments.audio.truncation import Truncation, promised

_TABLE = struct.Struct(">qqii")  # packets, frames of sound, priming frames, padding frames
_TOLERANCE_S = 0.05


@dataclass(frozen=True, slots=True)
class PacketTable:
    """Frame counts of an ALAC stream: the priming frames, and the frames of sound after them."""

    n_priming: int
    n_valid: int


class _Decoder(Protocol):
    sample_rate: int
    n_channels: int
    expected_s: float | None

    def read(self, n_frames: int) -> npt.NDArray[np.float32]: ...
    def truncation(self, decoded_s: float) -> Truncation | None: ...
    def close(self) -> None: ...


def find_packet_table(file: IO[bytes]) -> PacketTable | None:
    """The packet table of a CAF file that holds ALAC; None for other files or without a table.

    Args:
        file: seekable; its position afterwards is undefined.
    """
    file.seek(0)
    if file.read(4) != b"caff":
        return None
    is_alac, table = False, None
    try:
        for name, offset, size in iter_chunks(file, 8, ">4sQ", align=1):
            file.seek(offset)
            if name == b"desc":
                is_alac = file.read(12)[8:] == b"alac"
            if name == b"pakt" and size >= _TABLE.size:
                _, n_valid, n_priming, _ = _TABLE.unpack(file.read(_TABLE.size))
                if n_valid > 0 and n_priming >= 0:
                    table = PacketTable(n_priming, n_valid)
    except struct.error:  # the end of the file
        pass
    return table if is_alac else None


class PacketTableReader:
    """Reads only the frames of sound from a decoder that outputs all frames of all packets."""

    def __init__(self, decoder: _Decoder, table: PacketTable) -> None:
        self._decoder = decoder
        self._n_before = table.n_priming
        self._n_left = table.n_valid
        self.sample_rate = decoder.sample_rate
        self.n_channels = decoder.n_channels
        self.expected_s: float | None = table.n_valid / decoder.sample_rate

    def read(self, n_frames: int) -> npt.NDArray[np.float32]:
        """Up to `n_frames` frames; none at the end."""
        while self._n_before and len(skipped := self._decoder.read(min(self._n_before, n_frames))):
            self._n_before -= len(skipped)
        if self._n_left == 0:
            return np.zeros((0, self.n_channels), np.float32)
        frames = self._decoder.read(min(n_frames, self._n_left))
        self._n_left -= len(frames)
        return frames

    def truncation(self, decoded_s: float) -> Truncation | None:
        """How much is missing of the sound that the table counts."""
        self._decoder.truncation(decoded_s)  # only called because it also reports damage
        missing_s = self._n_left / self.sample_rate
        if missing_s <= _TOLERANCE_S:
            return None
        return promised(decoded_s, decoded_s + missing_s)

    def close(self) -> None:
        self._decoder.close()
