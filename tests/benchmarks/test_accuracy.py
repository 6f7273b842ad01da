"""The harness end to end with a system that reads the answer, so no model is needed."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import accuracy, systems
from benchmarks.scoring import TimedText

SAMPLE_RATE = 16_000
SEGMENTS = [
    {"start": 0.0, "end": 1.0, "text": "press star to cancel"},
    {"start": 1.5, "end": 2.0, "text": "thank you for waiting"},
]


class LateReader:
    """Says the first segment only, a quarter of a second late."""

    name = "late"

    def __init__(self, model: str, precision: str) -> None:
        self.model = model
        self.precision = precision

    def transcribe(self, path: Path, language: str) -> list[TimedText]:
        return [TimedText(0.25, 1.25, "Press star to cancel.")]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for language in ("en", "es"):
        silence = np.zeros(2 * SAMPLE_RATE, np.float32)
        soundfile.write(str(tmp_path / f"{language}.wav"), silence, SAMPLE_RATE)
        (tmp_path / f"{language}.json").write_text(json.dumps({"segments": SEGMENTS}))
    return tmp_path


@pytest.fixture
def run(
    audio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    monkeypatch.setitem(systems.FACTORIES, "late", LateReader)
    accuracy.main(
        ["--audio", str(audio), "--systems", "late", "--models", "demo:tiny.en,demo:base"]
        + ["--languages", "en,es", "--precisions", "int8", "--transcripts", str(audio / "kept")]
    )
    return capsys.readouterr().out.splitlines()


def test_last_line_is_json_and_every_run_has_a_row(run: list[str]) -> None:
    results = json.loads(run[-1])["results"]
    assert len(run) == len(results) + 2  # the heading and the JSON line


def test_english_only_models_skip_other_languages(run: list[str]) -> None:
    results = json.loads(run[-1])["results"]
    runs = [(result["model"], result["language"]) for result in results]
    assert runs == [("demo:tiny.en", "en"), ("demo:base", "en"), ("demo:base", "es")]


def test_scores_reach_the_result(run: list[str]) -> None:
    result = json.loads(run[-1])["results"][0]
    assert (result["wer"], result["deletions"], result["words"]) == (0.5, 4, 8)
    assert (result["lost"], result["dropped"], result["doubled"]) == (1, 1, 0)
    assert (result["start_error_s"], result["measured_share"]) == (0.25, 0.5)
    assert result["audio_s"] == 2.0


def test_transcripts_are_kept_with_their_times(run: list[str], audio: Path) -> None:
    kept = json.loads((audio / "kept" / "late_demo-base_int8_es.json").read_text())
    assert kept == [{"start_s": 0.25, "end_s": 1.25, "text": "Press star to cancel."}]


def test_unknown_system_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accuracy.main(["--audio", ".", "--systems", "nobody"])
    assert "nobody" in capsys.readouterr().err
