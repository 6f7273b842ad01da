"""Recordings with known words from all the speech that Debian's packages carry with its text.

Prompts of Asterisk in five languages and LibriVox's clips of pocketsphinx-testdata. A recording's
prompts are all of one part, see `make_speech.part_of`. The further voices of asterisk-prompt-* have
no text in their packages, so they are not used.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.make_speech import RATE, VOICES, find_prompts, part_of, read
from benchmarks.words.conditions import LONG, Company, Samples

ALONE = "alone"
_LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")
_MUSIC = Path("/usr/share/asterisk/moh")
_N_ALONE = 30
_MIN_WORDS_ALONE = 2
_LONG_S = (45.0, 120.0)
"""A long recording has this much speech: enough for several windows, little enough that there are
many recordings, which the bootstrap needs."""


@dataclass(frozen=True)
class Recording:
    """A file and what is said in it."""

    path: Path
    language: str
    condition: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.language}/{self.path.stem}"


@dataclass(frozen=True)
class _Prompt:
    samples: Samples
    text: str


def make(out: Path, part: str, languages: Sequence[str], minutes: float, seed: str) -> None:
    """Write OUT/LANG/CONDITION-N.wav and .json: `minutes` of each condition and language."""
    prompts = {language: list(_prompts(language, part, 4)) for language in VOICES}
    tunes = [read(str(path)) for path in sorted(_MUSIC.glob("*.wav"))]
    if not tunes or not all(prompts.values()):
        raise SystemExit("install asterisk-core-sounds-LANG, its -wav package, and asterisk-moh-*")
    for language in languages:
        others = [p.samples for key, each in prompts.items() if key != language for p in each]
        folder = out / language
        folder.mkdir(parents=True, exist_ok=True)
        for condition in LONG:
            rng = random.Random(f"{seed}{part}{language}{condition}")
            _make_long(folder, condition, prompts[language], minutes, Company(others, tunes), rng)
        short = list(_prompts(language, part, _MIN_WORDS_ALONE))
        rng = random.Random(f"{seed}{part}{language}{ALONE}")
        for i, prompt in enumerate(rng.sample(short, min(_N_ALONE, len(short)))):
            _write(folder, f"{ALONE}-{i:02}", prompt.samples, [prompt])


def recordings(
    folder: Path, languages: Sequence[str], conditions: Sequence[str]
) -> list[Recording]:
    """What `make` wrote, in order of language and name; no conditions given: all."""
    found = []
    for path in sorted(folder.glob("*/*.json")):
        language, condition = path.parent.name, path.stem.rsplit("-", 1)[0]
        if language in languages and (not conditions or condition in conditions):
            text = json.loads(path.read_text(encoding="utf-8"))["text"]
            found.append(Recording(path.with_suffix(".wav"), language, condition, text))
    return found


def _make_long(
    folder: Path,
    condition: str,
    prompts: Sequence[_Prompt],
    minutes: float,
    company: Company,
    rng: random.Random,
) -> None:
    order = _endless(prompts, rng)
    number, made_s = 0, 0.0
    while made_s < minutes * 60:
        wanted_s = rng.uniform(*_LONG_S)
        taken: list[_Prompt] = []
        while _speech_s(taken) < wanted_s:
            taken.append(next(order))
        samples = LONG[condition]([prompt.samples for prompt in taken], company, rng)
        _write(folder, f"{condition}-{number:02}", samples, taken)
        number, made_s = number + 1, made_s + len(samples) / RATE


def _endless(prompts: Sequence[_Prompt], rng: random.Random) -> Iterator[_Prompt]:
    while True:
        yield from rng.sample(prompts, len(prompts))


def _speech_s(prompts: Sequence[_Prompt]) -> float:
    return sum(len(prompt.samples) for prompt in prompts) / RATE


def _write(folder: Path, name: str, samples: Samples, prompts: Sequence[_Prompt]) -> None:
    soundfile.write(folder / f"{name}.wav", np.clip(samples, -1, 1), RATE, subtype="PCM_16")
    text = " ".join(prompt.text for prompt in prompts)
    content = json.dumps({"text": text}, ensure_ascii=False)
    (folder / f"{name}.json").write_text(content, encoding="utf-8")


def _prompts(language: str, part: str, min_words: int) -> Iterator[_Prompt]:
    for path, text in find_prompts(language, part, min_words):
        yield _Prompt(read(path), text)
    if language == "en":
        yield from _librivox(part)


def _librivox(part: str) -> Iterator[_Prompt]:
    for line in (_LIBRIVOX / "transcription").read_text(encoding="utf-8").splitlines():
        text, name = line.rsplit("(", 1)
        name = name.strip(" )")
        if part_of(f"en/{name}") == part:
            text = text.replace("<s>", "").replace("</s>", "").strip()
            yield _Prompt(read(str(_LIBRIVOX / f"{name}.wav")), text)
