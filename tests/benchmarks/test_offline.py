"""The benchmark end to end, each run in a process of its own, on committed speech."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import offline
from tests.conftest import DATA

CLIP = "librivox-0870.wav"


@pytest.fixture
def audio(tmp_path: Path, transcripts: dict[str, str]) -> Path:
    shutil.copy(DATA / CLIP, tmp_path / "en.wav")
    segment = {"start": 0.0, "end": 5.0, "text": transcripts[CLIP]}
    (tmp_path / "en.json").write_text(json.dumps({"segments": [segment]}))
    return tmp_path


@pytest.mark.more
def test_every_system_has_a_row(audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systems = "murmur-parallel,faster-whisper-batched-no-timestamps,transformers"
    offline.main(
        ["--audio", str(audio), "--systems", systems, "--models", "demo:tiny.en"]
        + ["--rounds", "2", "--precisions", "float32"]
    )
    out = capsys.readouterr().out.splitlines()
    results = json.loads(out[-1])["results"]
    assert [result["system"] for result in results] == systems.split(",")
    assert len(out) == len(results) + 3  # the heading's two lines and the JSON line
    for result in results:
        assert result["wer"] < 0.2 and result["cer"] < 0.2
        assert 0 < result["rtfx_min"] <= result["rtfx"] <= result["rtfx_max"]
        assert result["peak_rss_mb"] > 200


def test_unknown_system_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        offline.main(["--audio", ".", "--systems", "nobody"])
    assert "nobody" in capsys.readouterr().err
