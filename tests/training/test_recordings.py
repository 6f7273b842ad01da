"""Clips on disk: decoded once, cut where the manifest says, refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from training.errors import TrainingError
from training.manifest import Row, Span
from training.recordings import Recordings, prepare


@pytest.fixture
def speech(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pcm = np.random.default_rng(0).integers(-9000, 9000, 40 * 16_000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 16_000, subtype="PCM_16")
    return tmp_path / "a.wav", pcm


def test_clips_are_the_file_s_samples(speech: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, pcm = speech
    segments = (Span(0.5, 1.0, "two"),)
    rows = [
        Row("m:1", path, "one", 0.0, 10.0),
        Row("m:2", path, "two", 20.0, 22.5, "es", "one", segments),
    ]
    recordings = Recordings(prepare(rows, tmp_path / "data", "en"))
    first, second = recordings.clips
    assert np.array_equal(recordings.pcm(first), pcm[: 10 * 16_000])
    assert np.array_equal(recordings.pcm(second), pcm[20 * 16_000 : round(22.5 * 16_000)])
    assert (first.language, second.language) == ("en", "es")
    assert (second.segments, second.previous) == (segments, "one")
    assert recordings.duration_s == 12.5


def test_decoded_once_until_something_changes(
    speech: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, pcm = speech
    rows = [Row("m:1", path, "one", 0.0, 1.0)]
    folder = prepare(rows, tmp_path / "data", "en")
    before = (folder / "samples.int16").stat().st_mtime_ns
    assert prepare(rows, tmp_path / "data", "en") == folder
    assert (folder / "samples.int16").stat().st_mtime_ns == before
    soundfile.write(path, pcm[: 16_000 * 3], 16_000, subtype="PCM_16")
    assert prepare(rows, tmp_path / "data", "en") != folder
    assert not list((tmp_path / "data").glob("*.partial"))


def test_each_fault_has_a_line(speech: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = speech
    (tmp_path / "b.wav").write_bytes(b"no audio at all, only words" * 20)
    rows = [
        Row("m:1", path, "long"),
        Row("m:2", path, "behind", 45.0),
        Row("m:3", path, "beyond", 35.0, 50.0),
        Row("m:4", path, "short", 1.0, 1.05),
        Row("m:5", path, "times", 1.0, 2.0, segments=(Span(0.0, 5.0, "times"),)),
        Row("m:6", tmp_path / "missing.wav", "missing"),
        Row("m:7", tmp_path / "b.wav", "not audio"),
    ]
    with pytest.raises(TrainingError) as error:
        prepare(rows, tmp_path / "data", "en")
    lines = sorted(str(error.value).splitlines())
    told = [
        "the clip lasts 40.0 s, 30 s at most",
        "the file lasts 40.00 s, and ends before the clip",
        "the file lasts 40.00 s, and ends before the clip",
        "the clip lasts 0.05 s, at least 0.1 s needed",
        "a segment ends after the clip's 1.00 s",
        "missing.wav",
        "b.wav",
    ]
    for number, (line, words) in enumerate(zip(lines, told, strict=True), 1):
        assert line.startswith(f"m:{number}: ") and words in line
    assert not list((tmp_path / "data").iterdir())
