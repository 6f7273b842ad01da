"""Silence, noise and music give an empty transcript, not invented words."""

import numpy as np
import pytest
import soundfile

from deployments.local import FileDone, Job, LocalTranscriber
from engine import Engine
from tests.speech.conftest import MUSIC

pytestmark = pytest.mark.speech


def text_of(engine: Engine, source: str) -> str:
    (done,) = (
        event
        for event in LocalTranscriber(engine).run([Job("file", source)])
        if isinstance(event, FileDone)
    )
    return done.transcript.text


@pytest.mark.parametrize("model", ["demo:tiny.en", "demo:base"])
@pytest.mark.parametrize("name", sorted(path.name for path in MUSIC.glob("*.wav")) or ["missing"])
def test_music(model: str, name: str, engines: dict[str, Engine]) -> None:
    assert text_of(engines[model], str(MUSIC / name)) == ""


@pytest.mark.parametrize("model", ["demo:tiny.en", "demo:base"])
@pytest.mark.parametrize("kind", ["silence", "white", "brown", "hum", "clicks", "quiet hiss"])
def test_noise(model: str, kind: str, engines: dict[str, Engine], tmp_path_factory) -> None:
    rng = np.random.default_rng(1)
    n = 60 * 16_000
    white = rng.standard_normal(n)
    signal = {
        "silence": np.zeros(n),
        "white": white * 0.1,
        "brown": np.cumsum(white) / np.abs(np.cumsum(white)).max() * 0.5,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * np.arange(n) / 16_000),
        "clicks": (rng.random(n) < 0.0005) * 0.9,
        "quiet hiss": white * 0.001,
    }[kind]
    path = tmp_path_factory.mktemp("noise") / "noise.wav"
    soundfile.write(path, signal, 16_000)
    assert text_of(engines[model], str(path)) == ""
