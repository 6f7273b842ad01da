"""Speech with known words at known times: the committed clips with pauses between them."""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

DATA = Path(__file__).parents[1] / "data"
RATE = 16_000
CLIPS = {"C": "0870", "D": "0880", "E": "0890", "F": "0920", "G": "0930"}
_FRAME = RATE // 50
_VOICE_DB = -30.0
"""Level relative to the clip's loudest frame, in dB, above which a frame counts as voice."""


@dataclass(frozen=True)
class Said:
    """A clip's words, and where its voice begins and ends, in seconds.

    `is_sure` is False where words may be lost, as in a damaged stretch.
    """

    words: str
    start_s: float
    end_s: float
    is_sure: bool = True

    def moved(self, by_s: float) -> "Said":
        return replace(self, start_s=self.start_s + by_s, end_s=self.end_s + by_s)


@dataclass(frozen=True)
class Speech:
    """Mono float64 samples at 16 kHz within -1 to 1, and what is said in them."""

    samples: np.ndarray
    said: tuple[Said, ...]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE

    def moved(self, by_s: float) -> tuple[Said, ...]:
        return tuple(said.moved(by_s) for said in self.said)

    def unsure(self, start_s: float, end_s: float) -> tuple[Said, ...]:
        """What is said, where the words of clips that overlap this stretch may be lost."""
        return tuple(replace(s, is_sure=s.end_s < start_s or s.start_s > end_s) for s in self.said)

    def until(self, end_s: float, margin_s: float = 0.5) -> tuple[Said, ...]:
        """What is said before the audio is cut off, where words near the cut may be lost."""
        return tuple(
            replace(s, is_sure=s.end_s < end_s - margin_s)
            for s in self.said
            if s.start_s < end_s + margin_s
        )


def say(*parts: str | float) -> Speech:
    """Join clips, given by their letters, and pauses, given in seconds."""
    samples: list[np.ndarray] = []
    said: list[Said] = []
    n = 0
    for part in parts:
        if isinstance(part, str):
            clip = _clip(part)
            said += clip.moved(n / RATE)
            samples.append(clip.samples)
        else:
            samples.append(np.zeros(round(part * RATE)))
        n += len(samples[-1])
    return Speech(np.concatenate(samples), tuple(said))


def five() -> Speech:
    """All clips, a second apart."""
    return say("C", 1.0, "D", 1.0, "E", 1.0, "F", 1.0, "G")


def noise(duration_s: float, seed: int = 1) -> np.ndarray:
    """White noise with a standard deviation of 1."""
    return np.random.default_rng(seed).standard_normal(round(duration_s * RATE))


def breath(duration_s: float, low_hz: float, high_hz: float, every_s: float) -> np.ndarray:
    """Clicks, and noise of one band that swells and fades like breath. Nobody speaks."""
    n = round(duration_s * RATE)
    spectrum = np.fft.rfft(noise(duration_s))
    frequencies = np.fft.rfftfreq(n, 1 / RATE)
    spectrum[(frequencies < low_hz) | (frequencies > high_hz)] = 0
    band = np.fft.irfft(spectrum, n)
    phase = np.arange(n) / RATE % every_s / (0.4 * every_s)
    swell = np.sin(np.pi * np.clip(phase, 0, 1)) ** 2
    clicks = np.zeros(n)
    clicks[:: RATE * 7 // 5] = 0.8
    clicks = np.convolve(clicks, [1.0, -0.6, 0.3], "same")
    return np.clip(0.02 * swell * band / band.std() + clicks, -1, 1)


@cache
def _clip(letter: str) -> Speech:
    name = f"librivox-{CLIPS[letter]}.wav"
    samples, rate = soundfile.read(DATA / name, dtype="float64")
    assert rate == RATE and samples.ndim == 1
    words = json.loads((DATA / "librivox.json").read_text(encoding="utf-8"))[name]
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    (voiced,) = np.nonzero(level > level.max() + _VOICE_DB)
    step_s = _FRAME / RATE
    return Speech(samples, (Said(words, voiced[0] * step_s, (voiced[-1] + 1) * step_s),))
