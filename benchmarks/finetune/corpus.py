"""Made speech: invented product names in sentences, by voices of flite and espeak-ng.

Sentences of the three parts differ, and one voice is in the last part alone. `train` is clean: the
telephone is the training's own augmentation. `tune` and `judge` went over a telephone line of
ffmpeg's. Real speech is mixed into `train`, so that what the model knows stays: prompts of
Asterisk and LibriVox, of their part `tune`.
"""

import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.make_speech import RATE, find_prompts, part_of, read
from benchmarks.words.conditions import Company, Samples, telephone

NAMES = (
    *("Zorvex", "Quillim", "Brandovar", "Tessaro", "Mivanto", "Kelpira", "Dronzel", "Favistra"),
    *("Gorlimax", "Hexaluna", "Jantivo", "Korvidex", "Lumitra", "Nexorba", "Orvalis", "Plimora"),
    *("Querento", "Rizzolta", "Sanvorex", "Trillivan", "Ulvantis", "Veridoxa", "Wexolin"),
    *("Yalmeron", "Zephralon", "Brixavel", "Candovia", "Delmorix", "Estravine", "Fluvarin"),
)
TRAIN = (
    "I would like to order three boxes of {}.",
    "Does the {} work with my old charger?",
    "We sell more {} than anything else in spring.",
    "{} is out of stock until Monday.",
    "My neighbour told me that {} saves a lot of money.",
    "Please send the {} back in its own box.",
    "How long does the guarantee for {} last?",
    "The new {} comes in green and in blue.",
    "Nobody in the office knew what {} was for.",
    "You can add {} to your contract at any time.",
    "The manual of the {} has two hundred pages.",
    "Yesterday our {} stopped after the update.",
)
TUNE = (
    "The driver left the {} at the wrong door.",
    "Which battery do I need for the {}?",
    "They gave me a discount on {} last week.",
    "The screen of my {} stays black.",
)
JUDGE = (
    "I am calling because my {} arrived broken.",
    "Can I change from {} to something smaller?",
    "The price of {} went up again in June.",
    "She asked for the {} and two spare filters.",
    "Is {} also sold outside of Europe?",
)
VOICES = ("flite:slt", "flite:rms", "flite:awb", "espeak:en-us", "espeak:en-gb")
UNSEEN = "flite:kal16"
_N_GENERAL = 40
"""Clips of real speech on which a run is measured, and does not learn."""
_LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")


@dataclass(frozen=True)
class Said:
    """A clip and its text."""

    samples: Samples
    text: str
    voice: str


def make(folder: Path, per_name: int, general: int, seed: str) -> None:
    """Write FOLDER/{train,tune,judge,general}/: clips and a manifest each.

    Args:
        per_name: clips of each name in `train`.
        general: clips of real speech in `train`.
    """
    rng = random.Random(seed)
    train = [said for name in NAMES for said in _of_name(name, TRAIN, VOICES, per_name, rng)]
    real = list(real_speech("tune"))
    rng.shuffle(real)
    train += real[_N_GENERAL : _N_GENERAL + general]
    _write(folder / "train", train)
    tune = [said for name in NAMES for said in _of_name(name, TUNE, VOICES, 1, rng)]
    _write(folder / "tune", [_by_telephone(said, rng) for said in tune])
    judge = [said for name in NAMES for said in _of_name(name, JUDGE, VOICES, 2, rng)]
    judge += [said for name in NAMES for said in _of_name(name, JUDGE, (UNSEEN,), 1, rng)]
    _write(folder / "judge", [_by_telephone(said, rng) for said in judge])
    _write(folder / "general", real[:_N_GENERAL])


def real_speech(part: str) -> Iterator[Said]:
    """English prompts of Asterisk and LibriVox's clips of a part."""
    for path, text in find_prompts("en", part):
        yield Said(read(path), text, "asterisk")
    for line in (_LIBRIVOX / "transcription").read_text(encoding="utf-8").splitlines():
        text, name = line.rsplit("(", 1)
        name = name.strip(" )")
        if part_of(f"en/{name}") == part:
            words = text.replace("<s>", "").replace("</s>", "").strip()
            yield Said(read(str(_LIBRIVOX / f"{name}.wav")), words, "librivox")


def _of_name(
    name: str, sentences: Sequence[str], voices: Sequence[str], n: int, rng: random.Random
) -> Iterator[Said]:
    pairs = [(sentence, voice) for sentence in sentences for voice in voices]
    for sentence, voice in rng.sample(pairs, min(n, len(pairs))):
        text = sentence.format(name)
        yield Said(_speak(text, voice), text, voice)


def _speak(text: str, voice: str) -> Samples:
    """Text as an engine says it, at 16 kHz, with a little quiet around it."""
    engine, name = voice.split(":")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        if engine == "flite":
            command = ["flite", "-voice", name, "-t", text, "-o", file.name]
        else:
            command = ["espeak-ng", "-v", name, "-s", "150", "-w", file.name, text]
        subprocess.run(command, check=True, capture_output=True)
        speech = read(file.name)
    quiet = np.zeros(round(0.2 * RATE), np.float32)
    return np.concatenate([quiet, speech, quiet])


def _by_telephone(said: Said, rng: random.Random) -> Said:
    heard = telephone([said.samples], Company((), ()), rng)
    return Said(heard, said.text, said.voice)


def _write(folder: Path, clips: Sequence[Said]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, said in enumerate(clips):
        name = f"{number:05}-{said.voice.replace(':', '-')}.wav"
        soundfile.write(folder / name, np.clip(said.samples, -1, 1), RATE, subtype="PCM_16")
        lines.append(json.dumps({"audio": name, "text": said.text}, ensure_ascii=False))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    seconds = sum(len(said.samples) for said in clips) / RATE
    print(f"{folder.name}: {len(clips)} clips, {seconds / 60:.1f} min", flush=True)
