"""The benchmark of precisions: a real run of two ways, and its sums."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.precision import Row, config_of, summarise
from engine import CrossAttentionMode, Precision


def row(way: str, language: str, errors: int, words: int, wall_s: float = 10.0) -> Row:
    rtfx = 60.0 / wall_s
    return Row("m", way, language, errors / words, 0.0, errors, words, rtfx, wall_s, 8, 4, 100)


def test_errors_are_summed_over_words_and_time_over_audio() -> None:
    rows = [row("float32", "en", 2, 100), row("float32", "fr", 30, 300)]
    rows += [row("int8", "en", 3, 100, wall_s=5.0), row("int8", "fr", 29, 300, wall_s=20.0)]
    exact, small = summarise(rows, "m")
    assert (exact.wer, exact.wer_points_above_first) == (32 / 400, 0.0)
    assert small.wer_points_above_first == 0.0
    assert small.worst_language_points == pytest.approx(1.0)
    assert small.rtfx == pytest.approx(120 / 25)


def test_a_way_is_a_precision_and_what_is_kept() -> None:
    assert config_of("float32").cross_attention is None
    config = config_of("int8-weight-only/absorbed/8-bit")
    assert config.precision is Precision.INT8_WEIGHT_ONLY
    assert config.cross_attention is CrossAttentionMode.ABSORBED and config.int8_self_attention


@pytest.mark.more
def test_two_ways_on_a_real_clip(tmp_path: Path, clips: dict[str, np.ndarray]) -> None:
    pcm = clips["librivox-0870.wav"]
    soundfile.write(tmp_path / "en.wav", pcm, 16_000)
    text = "And mister John Dashwood had then leisure to consider how much there might be "
    text += "prudently in his power to do for them."
    segments = [{"start": 0.0, "end": len(pcm) / 16_000, "text": text}]
    (tmp_path / "en.json").write_text(json.dumps({"segments": segments}))
    command = [sys.executable, "-m", "benchmarks.precision", "--audio", str(tmp_path)]
    command += ["--models", "demo:tiny.en", "--ways", "float32,float32/absorbed/8-bit"]
    command += ["--plot", str(tmp_path / "plot.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    exact, small = result["summaries"]
    assert exact["wer"] < 0.15 and small["wer"] < 0.15
    assert exact["weight_mb"] == pytest.approx(small["weight_mb"], rel=0.01)
    assert small["slot_mb"] < exact["slot_mb"] / 3
    assert exact["peak_mb"] > exact["weight_mb"] + exact["slot_mb"] / 2
    assert (tmp_path / "plot.png").exists() and (tmp_path / "plot.svg").exists()
