"""Speech as people send it: telephone, noise, music, other speeds, quiet, long pauses.

Each condition turns prompts of one speaker into one recording at 16 kHz. All choices come from the
random number generator that is given, so the same seed makes the same files.
"""

import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from benchmarks.make_speech import PAUSES_S, RATE

Samples = npt.NDArray[np.float32]

_BABBLE_DB = 10.0
_MUSIC_DB = 10.0
_N_BABBLING = 6
_QUIET_DB = -30.0
_GAPS_S = (0.1, 8.0)
_RAW = ("-f", "f32le", "-ar", str(RATE), "-ac", "1")
_LEVEL = 0.05
"""Root mean square of speech, about that of the prompts as they come."""


@dataclass(frozen=True)
class Company:
    """What may sound behind the speech: speech of other languages, and music."""

    speech: Sequence[Samples]
    music: Sequence[Samples]


Condition = Callable[[Sequence[Samples], Company, random.Random], Samples]


def clean(prompts: Sequence[Samples], _: Company, rng: random.Random) -> Samples:
    return _joined(prompts, lambda: rng.choice(PAUSES_S))


def telephone(prompts: Sequence[Samples], company: Company, rng: random.Random) -> Samples:
    """300 to 3,400 Hz, 8 kHz, mu-law."""
    narrow = ["-af", "highpass=f=300,lowpass=f=3400", "-ar", "8000", "-f", "mulaw", "-"]
    coded = _ffmpeg(_RAW, clean(prompts, company, rng).tobytes(), narrow)
    line = ["-f", "mulaw", "-ar", "8000", "-ac", "1"]
    return np.frombuffer(_ffmpeg(line, coded, ["-ar", str(RATE), "-f", "f32le", "-"]), np.float32)


def babble(prompts: Sequence[Samples], company: Company, rng: random.Random) -> Samples:
    """Six voices of other languages, 10 dB below the speaker."""
    speech = clean(prompts, company, rng)
    voices = [_long_enough(company.speech, len(speech), rng) for _ in range(_N_BABBLING)]
    return _mixed(speech, np.sum(voices, axis=0), _BABBLE_DB)


def music(prompts: Sequence[Samples], company: Company, rng: random.Random) -> Samples:
    """Music, 10 dB below the speaker."""
    speech = clean(prompts, company, rng)
    piece = rng.choice(company.music)
    start = rng.randrange(max(1, len(piece) - len(speech)))
    return _mixed(speech, np.resize(piece[start:], len(speech)), _MUSIC_DB)


def fast(prompts: Sequence[Samples], company: Company, rng: random.Random) -> Samples:
    """10 % faster, and higher."""
    return _at_speed(clean(prompts, company, rng), 1.1)


def slow(prompts: Sequence[Samples], company: Company, rng: random.Random) -> Samples:
    """10 % slower, and lower."""
    return _at_speed(clean(prompts, company, rng), 0.9)


def quiet(prompts: Sequence[Samples], company: Company, rng: random.Random) -> Samples:
    """30 dB less."""
    return clean(prompts, company, rng) * np.float32(10 ** (_QUIET_DB / 20))


def gaps(prompts: Sequence[Samples], _: Company, rng: random.Random) -> Samples:
    """Pauses of 0.1 to 8 s, short ones as often as long ones on a logarithmic scale."""
    low, high = np.log(_GAPS_S)
    return _joined(prompts, lambda: float(np.exp(rng.uniform(low, high))))


LONG: dict[str, Condition] = {
    each.__name__: each for each in (clean, telephone, babble, music, fast, slow, quiet, gaps)
}
"""Conditions of recordings of several prompts."""


def _joined(prompts: Sequence[Samples], pause_s: Callable[[], float]) -> Samples:
    parts = [
        part
        for prompt in prompts
        for part in (prompt, np.zeros(round(pause_s() * RATE), np.float32))
    ]
    return np.concatenate(parts)


def _long_enough(pieces: Sequence[Samples], n_samples: int, rng: random.Random) -> Samples:
    """Pieces at random, one after another, each at the level of speech."""
    taken: list[Samples] = []
    while sum(map(len, taken)) < n_samples:
        piece = rng.choice(pieces)
        taken.append(piece * np.float32(_LEVEL / max(_rms(piece), 1e-4)))
    return np.concatenate(taken)[:n_samples]


def _mixed(speech: Samples, other: Samples, ratio_db: float) -> Samples:
    """Speech, and something else `ratio_db` below it; both are measured where they sound."""
    factor = _rms(speech) / max(_rms(other), 1e-6) * 10 ** (-ratio_db / 20)
    mixed = speech + other * np.float32(factor)
    return np.asarray(mixed / max(1.0, float(np.abs(mixed).max())), np.float32)


def _rms(samples: Samples) -> float:
    sounding = samples[np.abs(samples) > 1e-3]
    return float(np.sqrt(np.mean(np.square(sounding)))) if len(sounding) else 0.0


def _at_speed(samples: Samples, factor: float) -> Samples:
    change = ["-af", f"asetrate={round(RATE * factor)},aresample={RATE}", "-f", "f32le", "-"]
    return np.frombuffer(_ffmpeg(_RAW, samples.tobytes(), change), np.float32)


def _ffmpeg(given: Sequence[str], data: bytes, wanted: Sequence[str]) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *given, "-i", "-", *wanted]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout
