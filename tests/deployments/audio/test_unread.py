"""Sound that a decoder passes over without a word is told."""

from pathlib import Path

import numpy as np
import pytest

from deployments.audio.reading import SAMPLE_RATE, TrackWish, read_audio
from deployments.audio.report import AudioReport
from tests.support.media import run_ffmpeg

FRAGMENTED = (
    "-movflags",
    "frag_keyframe+empty_moov+default_base_moof",
    "-frag_duration",
    "1000000",
)
TONE = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=6")
KINDS = {
    "m4a": ("-c:a", "aac", "-movflags", "+faststart"),
    "mp4": ("-c:a", "aac", *FRAGMENTED),
    "mov": ("-c:a", "pcm_s16le"),
    "flv": ("-ar", "44100", "-c:a", "aac"),
    "avi": ("-c:a", "pcm_s16le"),
    "wma": ("-c:a", "wmav2"),
    "tta": ("-c:a", "tta"),
    "flac": ("-c:a", "flac"),
    "mp3": ("-b:a", "64k"),
    "aac": ("-c:a", "aac"),
    "mkv": ("-c:a", "flac"),
    "ogg": ("-c:a", "libopus", "-ar", "48000"),
}


def read(content: bytes) -> tuple[float, list[tuple[str, str]]]:
    report = AudioReport()
    n_samples = sum(map(len, read_audio(content, report=report)))
    return n_samples / SAMPLE_RATE, [(w.code, w.message) for w in report.warnings]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("unread")
    for kind, options in KINDS.items():
        run_ffmpeg(*TONE, *options, folder / f"a.{kind}")
    return {kind: (folder / f"a.{kind}").read_bytes() for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_has_no_warning(kind: str, files: dict[str, bytes]) -> None:
    duration_s, warnings = read(files[kind])
    assert duration_s == pytest.approx(6.0, abs=0.1)
    assert warnings == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_joined_behind_is_read_or_told(kind: str, files: dict[str, bytes]) -> None:
    duration_s, warnings = read(files[kind] * 2)
    is_whole = duration_s == pytest.approx(12.0, abs=0.15)
    assert is_whole or warnings, duration_s
    if kind in ("flac", "mp3", "aac", "mkv", "ogg"):
        assert is_whole and warnings == []


@pytest.mark.parametrize("second", ["m4a", "flv", "tta"])
def test_another_kind_behind_an_mp3_is_told(
    second: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.mp3"
    run_ffmpeg(*TONE, path)
    assert read(path.read_bytes())[1] == []
    _, warnings = read(path.read_bytes() + files[second])
    assert [code for code, _ in warnings] == ["damaged"]


def test_of_tracks_in_the_wanted_language_one_with_sound_is_read(tmp_path: Path) -> None:
    silence = ("-f", "lavfi", "-t", "6", "-i", "anullsrc=r=16000:cl=mono")
    marks = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=eng")
    path = tmp_path / "film.mkv"
    run_ffmpeg(*silence, *TONE, "-map", "0:a", "-map", "1:a", *marks, "-c:a", "flac", path)
    report = AudioReport()
    pcm = np.concatenate(list(read_audio(path, report=report, wish=TrackWish("en"))))
    assert report.info is not None and report.info.track == 2
    assert np.abs(pcm).max() > 1_000
