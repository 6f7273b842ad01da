"""Clips of 0.5 to 20 s with known words, from Debian's prompts, as people send them.

Prompts of one speaker, as many as a length allows, in one of `CONDITIONS`. As many clips of each
length as of the others.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.make_speech import RATE, VOICES, find_prompts, read
from benchmarks.words.conditions import LONG, Company, Samples

CONDITIONS = ("clean", "telephone", "babble", "music", "fast", "slow", "quiet")
LENGTHS_S = ((0.5, 3.0), (3.0, 7.0), (7.0, 12.0), (12.0, 20.0))
_MUSIC = Path("/usr/share/asterisk/moh")
_PAUSE_S = 0.6
"""About what a condition puts between prompts."""


@dataclass(frozen=True)
class Clip:
    """A clip and what is said in it: int16 mono at 16 kHz."""

    name: str
    language: str
    condition: str
    length_s: tuple[float, float]
    pcm: npt.NDArray[np.int16]
    text: str


@dataclass(frozen=True)
class _Prompt:
    samples: Samples
    text: str

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE


def make_clips(part: str, language: str, n: int, seed: str = "1") -> Iterator[Clip]:
    """`n` clips of a language's prompts.

    Args:
        part: `tune` or `judge`, see `make_speech.part_of`.
    """
    prompts = [_Prompt(read(path), text) for path, text in find_prompts(language, part, 1)]
    tunes = [read(str(path)) for path in sorted(_MUSIC.glob("*.wav"))]
    others = [language_ for language_ in VOICES if language_ != language]
    behind = [read(path) for each in others for path, _ in list(find_prompts(each, part))[:40]]
    if not (prompts and tunes and behind):
        raise SystemExit("install asterisk-core-sounds-LANG, its -wav package, and asterisk-moh-*")
    company, rng = Company(behind, tunes), random.Random(f"{seed}{part}{language}")
    for number in range(n):
        length_s = LENGTHS_S[number % len(LENGTHS_S)]
        condition = CONDITIONS[number // len(LENGTHS_S) % len(CONDITIONS)]
        chosen = _choose(prompts, rng.uniform(*length_s), length_s, rng)
        samples = LONG[condition]([prompt.samples for prompt in chosen], company, rng)
        pcm = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
        text = " ".join(prompt.text for prompt in chosen)
        yield Clip(f"{language}/{part}-{number:04}", language, condition, length_s, pcm, text)


def _choose(
    prompts: Sequence[_Prompt], wanted_s: float, limits_s: tuple[float, float], rng: random.Random
) -> list[_Prompt]:
    """Prompts that last about so long together, within the limits."""
    chosen: list[_Prompt] = []
    left_s, most_s = wanted_s, limits_s[1]
    while not chosen or left_s > 0.5:
        fitting = [prompt for prompt in prompts if prompt.duration_s <= most_s]
        if not fitting:
            break
        # The nearest of some: long and short prompts come alike.
        prompt = min(rng.sample(fitting, min(5, len(fitting))),
                     key=lambda each: abs(each.duration_s - left_s))  # fmt: skip
        chosen.append(prompt)
        left_s -= prompt.duration_s + _PAUSE_S
        most_s -= prompt.duration_s + _PAUSE_S
    return chosen
