"""Audio formats of a live session: bytes as they arrive -> 16 kHz mono int16."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from engine import SAMPLE_RATE

Encoding = Literal["pcm16", "mulaw", "alaw"]
_SUBTYPES: dict[Encoding, str] = {"mulaw": "ULAW", "alaw": "ALAW"}
MIN_RATE, MAX_RATE = 8_000, 192_000


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How samples of one channel are written.

    Args:
        encoding: 16-bit little-endian integers, or G.711 in one of its two laws.
        rate: samples a second.

    Raises:
        ValueError: the rate is out of range.
    """

    encoding: Encoding = "pcm16"
    rate: int = 24_000

    def __post_init__(self) -> None:
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise ValueError(f"rate must be between {MIN_RATE} and {MAX_RATE}, got {self.rate}")

    @property
    def sample_bytes(self) -> int:
        return 2 if self.encoding == "pcm16" else 1


class AudioDecoder:
    """Decodes a stream of bytes. A sample may be divided between two pieces.

    The resampler looks ahead: the newest samples (some 10 ms) come with the next piece, or with
    `flush`.
    """

    def __init__(self, format: AudioFormat) -> None:
        self.format = format
        self._rest = b""
        self._resampler = self._new_resampler()

    def push(self, data: bytes) -> npt.NDArray[np.int16]:
        """The samples that are known with these bytes, int16 at 16 kHz."""
        data = self._rest + data
        whole = len(data) - len(data) % self.format.sample_bytes
        data, self._rest = data[:whole], data[whole:]
        return self._resampled(self._samples(data), False) if data else np.zeros(0, np.int16)

    def flush(self) -> npt.NDArray[np.int16]:
        """The samples that are left. The stream may go on behind them."""
        rest = self._resampled(np.zeros(0, np.int16), True)
        self._rest, self._resampler = b"", self._new_resampler()
        return rest

    def _new_resampler(self) -> soxr.ResampleStream | None:
        if self.format.rate == SAMPLE_RATE:
            return None
        return soxr.ResampleStream(self.format.rate, SAMPLE_RATE, 1, dtype="int16")

    def _samples(self, data: bytes) -> npt.NDArray[np.int16]:
        if self.format.encoding == "pcm16":
            return np.frombuffer(data, "<i2").astype(np.int16, copy=False)
        samples, _ = soundfile.read(
            io.BytesIO(data),
            dtype="int16",
            samplerate=self.format.rate,
            channels=1,
            format="RAW",
            subtype=_SUBTYPES[self.format.encoding],
        )
        return np.asarray(samples, np.int16)

    def _resampled(self, samples: npt.NDArray[np.int16], last: bool) -> npt.NDArray[np.int16]:
        if self._resampler is None:
            return samples
        return np.asarray(self._resampler.resample_chunk(samples, last=last), np.int16)
