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

# Packets, frames of sound, priming frames, padding frames.
_TABLE = struct.Struct(">qqii")
# Rate, codec, flags, bytes and frames of a packet, channels, bits.
_FORMAT = struct.Struct(">d4s5I")
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
    is_alac, frames_per_packet, table = False, 0, None
    try:
        for name, offset, size in iter_chunks(file, 8, ">4sQ", align=1):
            file.seek(offset)
            if name == b"desc":
                _, codec, _, _, frames_per_packet, _, _ = _FORMAT.unpack(file.read(_FORMAT.size))
                is_alac = codec == b"alac"
            if name == b"pakt" and size >= _TABLE.size:
                table = _read_table(file.read(_TABLE.size), frames_per_packet)
    except struct.error:  # the end of the file
        pass
    return table if is_alac else None


def _read_table(data: bytes, frames_per_packet: int) -> PacketTable | None:
    n_packets, n_valid, n_priming, n_padding = _TABLE.unpack(data)
    if n_valid <= 0 or n_priming < 0:
        return None
    # A recorder may have written the number of frames early and gone on.
    n_held = n_packets * frames_per_packet - n_priming - max(0, n_padding)
    return PacketTable(n_priming, max(n_valid, n_held))


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
        """About `n_frames` frames; none at the end."""
        frames = self._decoder.read(n_frames)
        while self._n_before and len(frames):
            n_skipped = min(self._n_before, len(frames))
            self._n_before -= n_skipped
            frames = frames[n_skipped:] if n_skipped < len(frames) else self._decoder.read(n_frames)
        while self._n_left == 0 and len(frames):  # padding; a decoder ends only if all is read
            frames = self._decoder.read(n_frames)
        frames = frames[: self._n_left]
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
