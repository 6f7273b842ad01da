"""Frames of uncompressed audio files, read by libsndfile in this process.

Only linear and companded PCM is read here, because there libsndfile is exact to the frame. With
other formats it (version 1.2.2) loses audio without an error: a VBR MP3 without a Xing header ends
at a length estimated from its first frames, a chained Ogg or MP3 ends after its first link, and a
FLAC that was streamed or cut loses its last block. Those all go to `ffmpeg_reader`.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
import soundfile

from deployments.audio.sample_parts import Part
from deployments.audio.span_file import SpanFile
from deployments.audio.truncation import Truncation
from deployments.errors import NotAudioError

_TOLERANCE_S = 0.05
_SAMPLE_BYTES = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
    "ULAW": 1,
    "ALAW": 1,
}


class PcmReader:
    """Reads float32 frames, shape (n_frames, n_channels), full scale ±1 but not clipped to it."""

    def __init__(self, sound: soundfile.SoundFile) -> None:
        self._sound = sound
        self.sample_rate: int = sound.samplerate
        self.n_channels: int = sound.channels
        self.expected_s: float | None = sound.frames / sound.samplerate
        """Length of what the file holds, not of what its header promises."""

    def read(self, n_frames: int) -> npt.NDArray[np.float32]:
        """Up to `n_frames` frames; none at the end."""
        try:
            frames: npt.NDArray[np.float32] = self._sound.read(
                n_frames, dtype="float32", always_2d=True
            )
        except soundfile.LibsndfileError as error:
            raise NotAudioError(f"cannot be decoded: {error.error_string}") from error
        return frames

    def truncation(self, decoded_s: float) -> Truncation | None:
        """What is missing if the file became shorter while it was read. It cannot be told here
        whether a header promised too much, because libsndfile repairs such lengths on opening."""
        assert self.expected_s is not None, "a PCM file's length is known"
        if self.expected_s - decoded_s <= _TOLERANCE_S:
            return None
        reason = f"truncated: the file ended at {decoded_s:.2f} of {self.expected_s:.2f} s"
        return Truncation(reason, self.expected_s)

    def holds(self, n_bytes: int) -> bool:
        """Whether the reader covers exactly this many bytes of samples."""
        frame_bytes = self.n_channels * _SAMPLE_BYTES[self._sound.subtype]
        return bool(self._sound.frames == n_bytes // frame_bytes)

    def close(self) -> None:
        self._sound.close()


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """How samples are laid out in a file. `subtype` and `endian` use libsndfile's names."""

    sample_rate: int
    n_channels: int
    subtype: str
    endian: str

    @property
    def frame_bytes(self) -> int:
        return self.n_channels * _SAMPLE_BYTES[self.subtype]


def open_pcm(file: IO[bytes]) -> PcmReader | None:
    """Open a WAV, W64, AIFF, AU or CAF file if libsndfile reads every one of its frames.

    Args:
        file: one of these (see `find_data_chunk`), a real file or a BytesIO. The reader uses its
            position, and does not close it.

    Returns:
        None if the file is better left to ffmpeg: it is broken, its samples are coded, or its
        length is 0, which libsndfile reports for a WAV whose writer left the size open.
    """
    file.seek(0)
    try:
        sound = _open(file)
    except soundfile.LibsndfileError:
        return None
    if sound.subtype in _SAMPLE_BYTES and sound.frames > 0:
        return PcmReader(sound)
    sound.close()
    return None


def pcm_format(file: IO[bytes], part: Part) -> PcmFormat | None:
    """What a part's header says about its samples; None if they are coded, or it is broken."""
    # Read only up to the end of the first samples: libsndfile refuses some of what may follow.
    end = part.spans[0][1] if part.spans else file.seek(0, io.SEEK_END)
    try:
        sound = soundfile.SoundFile(SpanFile(file, [(part.start, end)]))
    except soundfile.LibsndfileError:
        return None
    with sound:
        if sound.subtype not in _SAMPLE_BYTES:
            return None
        file.seek(part.start)
        is_big = file.read(4) in (b"RIFX", b"FORM", b".snd", b"caff")
        # libsndfile names the byte order only if it differs from the container's default.
        endian = {"FILE": "BIG" if is_big else "LITTLE"}.get(sound.endian, sound.endian)
        return PcmFormat(sound.samplerate, sound.channels, sound.subtype, endian)


def open_spans(
    file: IO[bytes], spans: Sequence[tuple[int, int]], layout: PcmFormat
) -> PcmReader | None:
    """Read samples where they lie, whatever a header says about their number.

    Returns:
        None if there is not a single frame.
    """
    # Each span must hold whole frames: after a stray byte, everything would be noise.
    size = layout.frame_bytes
    whole = [(start, start + (end - start) // size * size) for start, end in spans]
    if not any(end > start for start, end in whole):
        return None
    sound = soundfile.SoundFile(
        SpanFile(file, whole),
        format="RAW",
        samplerate=layout.sample_rate,
        channels=layout.n_channels,
        subtype=layout.subtype,
        endian=layout.endian,
    )
    return PcmReader(sound)


def _open(file: IO[bytes]) -> soundfile.SoundFile:
    if isinstance(file, io.BytesIO):
        return soundfile.SoundFile(file)
    # By descriptor, because soundfile takes a path's extension for its format ("x.raw" would fail).
    return soundfile.SoundFile(file.fileno(), closefd=False)
