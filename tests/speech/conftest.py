"""Recordings that scripts/test-speech makes. Asked for without them, the tests fail."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scoring import TimedText
from tests.conftest import read_pcm

MUSIC = Path("/usr/share/asterisk/moh")


@dataclass(frozen=True)
class Recording:
    path: Path
    language: str
    segments: tuple[TimedText, ...]

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def pcm(self) -> np.ndarray:
        return read_pcm(self.path)


def load(folder: str, language: str) -> Recording:
    root = os.environ.get("MURMUR_SPEECH")
    if root is None:
        pytest.fail("run `make test-speech`: it makes the recordings that this test needs")
    path = Path(root) / folder / f"{language}.wav"
    truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    segments = tuple(TimedText(s["start"], s["end"], s["text"]) for s in truth["segments"])
    return Recording(path, language, segments)
