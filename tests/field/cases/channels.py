"""Which channels and which track are listened to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.field.audio import RATE, Speech, noise, say
from tests.field.case import Case, FileCase
from tests.field.checks import Heard
from tests.field.media import ffmpeg, write

_CLIP, _OTHER = say("C"), say("E")
_TURNS = say("C", 1.0, "D")
_FIRST = np.arange(len(_TURNS.samples)) < len(_CLIP.samples) + RATE // 2


def _stacked(*channels: np.ndarray) -> np.ndarray:
    n = max(map(len, channels))
    return np.stack([np.pad(channel, (0, n - len(channel))) for channel in channels], axis=1)


def _one_of_sixteen() -> np.ndarray:
    samples = np.zeros((len(_CLIP.samples), 16))
    samples[:, 10] = 0.2 * _CLIP.samples
    return samples


def _file(name: str, samples: np.ndarray, speech: Speech) -> Case:
    return FileCase(
        f"channels/{name}",
        lambda folder: write(folder / "a.wav", samples),
        Heard(speech.said, speech.duration_s),
    )


def _tracks(
    name: str,
    tracks: Sequence[np.ndarray],
    right: Speech,
    arguments: Sequence[str] = (),
    **fields: str,
) -> Case:
    def make(folder: Path) -> Path:
        inputs: list[str | Path] = []
        maps: list[str] = []
        for i, samples in enumerate(tracks):
            inputs += ["-i", write(folder / f"{i}.wav", samples)]
            maps += ["-map", str(i)]
        path = folder / "a.mkv"
        ffmpeg(*inputs, *maps, "-c:a", "flac", *arguments, path)
        return path

    return FileCase(f"tracks/{name}", make, Heard(right.said), fields=fields)


_BOTH = (_CLIP.samples, _OTHER.samples)
_MARKED = ("-disposition:a:0", "0", "-disposition:a:1", "default")
_TAGGED = (
    *("-metadata:s:a:0", "language=ger", "-metadata:s:a:1", "language=eng"),
    *("-disposition:a:0", "default", "-disposition:a:1", "0"),
)

CASES: list[Case] = [
    _file("opposite signs", _stacked(_CLIP.samples, -_CLIP.samples), _CLIP),
    _file("noise beside speech", _stacked(_CLIP.samples, 0.2 * noise(_CLIP.duration_s)), _CLIP),
    _file("noise before speech", _stacked(0.2 * noise(_CLIP.duration_s), _CLIP.samples), _CLIP),
    _file("one of 16 at 0.2", _one_of_sixteen(), _CLIP),
    _file(
        "a speaker each",
        _stacked(_TURNS.samples * _FIRST, _TURNS.samples * ~_FIRST),
        _TURNS,
    ),
    _tracks("the default one is the second", _BOTH, _OTHER, _MARKED),
    _tracks("tagged with the language asked for", _BOTH, _OTHER, _TAGGED, language="en"),
    _tracks("the first is silent", (np.zeros(len(_CLIP.samples)), _OTHER.samples), _OTHER),
    _tracks("track=2", _BOTH, _OTHER, track="2"),
    _tracks("track=1 against the default", _BOTH, _CLIP, _MARKED, track="1"),
]
