"""What a cascade's benchmark decodes, and what it need not decode again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.decoders import Decoders
from deployments.messages import Chunk
from engine import DecodingOptions, Engine, EngineConfig

CLIP = Path(__file__).parents[1] / "data/librivox-0870.wav"
MODELS = ("demo:tiny.en", "demo:base")


def chunk(number: int, above: int | None = None) -> Chunk:
    pcm, _ = soundfile.read(CLIP, dtype="int16")
    return Chunk(f"r{number}", number, pcm[:80_000], DecodingOptions(language="en"), above=above)


def test_what_was_kept_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by another process, whose models may stand in another order."""
    config = EngineConfig(max_slots=2)
    first = Decoders(MODELS, config, tmp_path).decode([chunk(0), chunk(1), chunk(2, above=1)], 1)
    assert [r.key for r in first] == ["r0/0/0", "r1/1/0", "r2/2/0"]
    assert [r.model for r in first] == ["1", "1", "2"]
    assert first[0].tokens == first[1].tokens and "".join(s.text for s in first[0].segments)
    assert len(list(tmp_path.iterdir())) == 2

    def refuse(*_: object) -> None:
        raise AssertionError("it was known")

    monkeypatch.setattr(Engine, "add_request", refuse)
    reverse = Decoders(MODELS[::-1], config, tmp_path)
    again = reverse.decode([chunk(3), chunk(4, above=1)], 1)
    assert [r.model for r in again] == ["1", "2"]
    assert [r.tokens for r in again] == [first[2].tokens, first[0].tokens]
    silence = Chunk("r5", 5, np.zeros(16_000, np.int16), DecodingOptions(language="en"))
    hotter = replace(chunk(6), options=DecodingOptions(language="en", temperature=0.2))
    for other in (silence, hotter):
        with pytest.raises(AssertionError, match="it was known"):
            reverse.decode([other], 1)
