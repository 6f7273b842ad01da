"""Recordings of joined prompts, whose first and last words have edges that are known."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.make_speech import RATE, find_prompts, read
from benchmarks.words.conditions import Samples

PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0)
_FRAME = RATE // 100
_BELOW_LOUD_DB = 35.0
"""Speech begins and ends where 10 ms are no softer than this below the prompt's loud frames: about
25 dB above the noise of these studio recordings."""
_FILE_S = 60.0


@dataclass(frozen=True)
class Prompt:
    """A stretch of speech without a pause of ours, and its text."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Recording:
    path: Path
    language: str
    prompts: tuple[Prompt, ...]


def make(
    out: Path,
    part: str,
    languages: Sequence[str],
    minutes: float,
    seed: str,
    pauses_s: Sequence[float] = PAUSES_S,
) -> None:
    """Write OUT/LANG-N.wav and .json: prompts of one word and more, with pauses between them."""
    out.mkdir(parents=True, exist_ok=True)
    for language in languages:
        rng = random.Random(f"{seed}{part}{language}")
        found = list(find_prompts(language, part, min_words=1))
        short = [each for each in found if len(each[1].split()) <= 3]
        for number in range(round(minutes * 60 / _FILE_S)):
            _write(out / f"{language}-{number:02}", language, found, short, pauses_s, rng)


def recordings(folder: Path, languages: Sequence[str]) -> list[Recording]:
    """What `make` wrote, in order of language and number."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["language"] in languages:
            prompts = tuple(Prompt(*each) for each in content["prompts"])
            found.append(Recording(path.with_suffix(".wav"), content["language"], prompts))
    return found


def speech_edges(samples: Samples) -> tuple[int, int]:
    """The first sample of speech, and the one after the last."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    level = 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-12)
    heard = np.flatnonzero(level > np.percentile(level, 95) - _BELOW_LOUD_DB)
    return int(heard[0]) * _FRAME, (int(heard[-1]) + 1) * _FRAME


def _write(
    path: Path,
    language: str,
    prompts: Sequence[tuple[str, str]],
    short: Sequence[tuple[str, str]],
    pauses_s: Sequence[float],
    rng: random.Random,
) -> None:
    audio: list[Samples] = [np.zeros(round(rng.choice(pauses_s) * RATE), np.float32)]
    told: list[tuple[float, float, str]] = []
    n = len(audio[0])
    while n < _FILE_S * RATE:
        name, text = rng.choice(short if short and rng.random() < 0.5 else prompts)
        speech = read(name)
        start, end = speech_edges(speech)
        speech = speech[start:end]
        pause = np.zeros(round(rng.choice(pauses_s) * RATE), np.float32)
        told.append((round(n / RATE, 3), round((n + len(speech)) / RATE, 3), text))
        audio += [speech, pause]
        n += len(speech) + len(pause)
    soundfile.write(path.with_suffix(".wav"), np.concatenate(audio), RATE, subtype="PCM_16")
    content = json.dumps({"language": language, "prompts": told}, ensure_ascii=False)
    path.with_suffix(".json").write_text(content, encoding="utf-8")
