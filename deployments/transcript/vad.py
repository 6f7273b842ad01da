"""Where speech is: speech probabilities over a stream, and regions made from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deployments.audio.voice_network import FRAME_SAMPLES, VoiceNetwork, frames_of
from deployments.options import VadOptions
from deployments.transcript.loudness import Leveller
from engine import SAMPLE_RATE


class ProbabilityStream(Protocol):
    """Speech probabilities, one per whole frame of a stream."""

    def push(self, pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """Take the stream's next samples; returns the probabilities that are known by now."""

    def finish(self) -> npt.NDArray[np.float32]:
        """The probabilities that are left. If the last frame is not whole, it is padded with
        silence."""


class SpeechProbabilities:
    """Speech probabilities of a stream's frames, from Silero's network. Quiet speech is raised
    first (`loudness.py`), so the probabilities come half a second late."""

    def __init__(self) -> None:
        self._network = VoiceNetwork()
        self._rest = np.zeros(0, np.int16)
        self._leveller = Leveller()

    def push(self, pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        pcm = np.concatenate((self._rest, pcm))
        n_frames = len(pcm) // FRAME_SAMPLES
        self._rest = pcm[n_frames * FRAME_SAMPLES :]
        return self._network.run(self._leveller.push(frames_of(pcm[: n_frames * FRAME_SAMPLES])))

    def finish(self) -> npt.NDArray[np.float32]:
        rest, self._rest = self._rest, self._rest[:0]
        last = frames_of(np.pad(rest, (0, -len(rest) % FRAME_SAMPLES)))
        frames = np.concatenate((self._leveller.push(last), self._leveller.finish()))
        return self._network.run(frames)


@dataclass(frozen=True, slots=True)
class Region:
    """Speech from sample `start` to sample `end` of the file."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class RegionDetector:
    """Frame probabilities -> regions, each as soon as the silence after it is long enough."""

    def __init__(self, options: VadOptions) -> None:
        self._options = options
        self._min_silence = options.min_silence_s * SAMPLE_RATE
        self._min_speech = options.min_speech_s * SAMPLE_RATE
        self._position = 0
        self._start: int | None = None
        self._silence_start: int | None = None

    @property
    def position(self) -> int:
        """Number of samples in the frames seen so far."""
        return self._position

    @property
    def open_start(self) -> int | None:
        """Where the region begins that has not ended yet; None if there is none."""
        return self._start

    def push(self, probabilities: npt.NDArray[np.float32]) -> Iterator[Region]:
        for probability in probabilities.tolist():
            region = self._frame(probability)
            self._position += FRAME_SAMPLES
            if region is not None and region.length >= self._min_speech:
                yield region

    def finish(self, n_samples: int) -> Iterator[Region]:
        """Close the region that is open at the end of a stream of `n_samples`."""
        if self._start is not None:
            end = self._silence_start if self._silence_start is not None else n_samples
            region = Region(self._start, min(end, n_samples))
            self._start = None
            if region.length >= self._min_speech:
                yield region

    def split_open(self, at: int) -> Region:
        """End the open region at sample `at` and begin the next one there, for speech without a
        pause."""
        assert self._start is not None and self._start < at <= self._position
        region = Region(self._start, at)
        self._start = at
        return region

    def _frame(self, probability: float) -> Region | None:
        if probability >= self._options.threshold:
            self._silence_start = None
            if self._start is None:
                self._start = self._position
            return None
        if self._start is None:
            return None
        if probability < self._options.threshold - 0.15 and self._silence_start is None:
            self._silence_start = self._position
        if self._silence_start is None:
            return None
        if self._position + FRAME_SAMPLES - self._silence_start < self._min_silence:
            return None
        region = Region(self._start, self._silence_start)
        self._start = self._silence_start = None
        return region
