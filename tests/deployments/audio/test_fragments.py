"""Damage to a fragmented MP4 costs the damaged fragments alone."""

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from deployments.audio import fragments
from deployments.audio.fragments import find_patches
from deployments.audio.reading import SAMPLE_RATE, read_audio
from deployments.audio.report import AudioReport
from tests.support.media import run_ffmpeg

LAYOUTS = {
    "relative offsets": "frag_keyframe+empty_moov+default_base_moof",
    "absolute offsets": "frag_keyframe+empty_moov",
    "DASH": "dash+frag_keyframe+empty_moov+default_base_moof",
}
Pcm = npt.NDArray[np.int16]
VENDOR = struct.pack(">I4s12x", 20, b"vnd1")


def read(content: bytes) -> tuple[Pcm, list[str]]:
    report = AudioReport()
    pcm = np.concatenate(list(read_audio(content, report=report)))
    return pcm, [warning.code for warning in report.warnings]


def moofs(data: bytes) -> list[int]:
    """Where the fragments' indexes begin."""
    return [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Six seconds of noise, in fragments of one."""
    folder = tmp_path_factory.mktemp("fragments")
    noise = ("-f", "lavfi", "-i", "anoisesrc=sample_rate=16000:duration=6:seed=1")
    for name, flags in LAYOUTS.items():
        options = ("-c:a", "aac", "-movflags", flags, "-frag_duration", "1000000")
        run_ffmpeg(*noise, *options, folder / f"{name}.mp4")
    return {name: (folder / f"{name}.mp4").read_bytes() for name in LAYOUTS}


def differs_at(pcm: Pcm, whole: Pcm) -> list[int]:
    """The seconds in which two recordings differ."""
    n = min(len(pcm), len(whole))
    different = np.flatnonzero(np.abs(pcm[:n].astype(int) - whole[:n]) > 500)
    return sorted({int(at) // SAMPLE_RATE for at in different})


def damaged(data: bytes, at: int, n_bytes: int, by: int | None = 0) -> bytes:
    noise = np.random.default_rng(at).bytes(n_bytes)
    content = noise if by is None else bytes([by]) * n_bytes
    return data[:at] + content + data[at + n_bytes :]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("by", [0, None], ids=["zeros", "noise"])
@pytest.mark.parametrize(
    ("offset", "n_bytes"), [(0, 4), (0, 16), (4, 4), (8, 8), (24, 64), (0, 236)], ids=str
)
@pytest.mark.parametrize("which", [1, 3])
def test_the_rest_is_read_in_its_place(
    which: int, offset: int, n_bytes: int, by: int | None, layout: str, files: dict[str, bytes]
) -> None:
    whole, _ = read(files[layout])
    at = moofs(files[layout])[which] + offset
    pcm, warnings = read(damaged(files[layout], at, n_bytes, by))
    assert warnings == ["damaged"]
    assert len(pcm) == pytest.approx(len(whole), abs=0.1 * SAMPLE_RATE)
    # A frame overlaps with the next one, over the border of a second.
    assert set(differs_at(pcm, whole)) <= {which - 1, which, which + 1}
    assert which in differs_at(pcm, whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_of_samples_that_lie(layout: str, files: dict[str, bytes]) -> None:
    data = files[layout]
    whole, _ = read(data)
    at = data.index(b"mdat", moofs(data)[2]) - 4
    for size in (50, 1 << 30):
        pcm, warnings = read(data[:at] + struct.pack(">I", size) + data[at + 4 :])
        assert warnings == ["damaged"]
        assert differs_at(pcm, whole) == [], "the samples are all there"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("by", [0, None], ids=["zeros", "noise"])
def test_samples_without_their_head_are_found_by_their_index(
    layout: str, by: int | None, files: dict[str, bytes]
) -> None:
    data = files[layout]
    whole, _ = read(data)
    at = data.index(b"mdat", moofs(data)[2]) - 4
    pcm, warnings = read(damaged(data, at, 8, by))
    assert (differs_at(pcm, whole), warnings) == ([], ["damaged"])
    pcm, warnings = read(damaged(data, at, 2_000, by))
    assert (differs_at(pcm, whole), set(warnings)) == ([2], {"damaged"})


def test_samples_without_an_index_are_told(files: dict[str, bytes]) -> None:
    data = files["DASH"]
    whole, _ = read(data)
    at = moofs(data)[2]
    pcm, warnings = read(data[:at] + data[data.index(b"mdat", at) - 4 :])
    assert warnings == ["damaged"]
    assert differs_at(pcm, whole) == [2, 3] and len(pcm) == len(whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_files_are_left_alone(layout: str, files: dict[str, bytes]) -> None:
    """So are boxes that nobody knows, padding, and files that are cut off anywhere."""
    data = files[layout]
    second = moofs(data)[1]
    for content in (
        data,
        data + bytes(5_000),
        data[:-10],
        data[: second + 30],
        VENDOR + data[moofs(data)[0] :],
    ):
        assert find_patches(io.BytesIO(content)) == []
    if layout != "absolute offsets":
        for at in (data.index(b"moov") - 4, second, data.index(b"mdat", second) - 4):
            assert find_patches(io.BytesIO(data[:at] + VENDOR + data[at:])) == []


def test_other_kinds_are_not_walked(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "plain.m4a"
    (tmp_path / "frag.mp4").write_bytes(files["DASH"])
    run_ffmpeg("-i", tmp_path / "frag.mp4", "-c", "copy", path)
    broken = path.read_bytes() + b"\1" * 100
    assert find_patches(io.BytesIO(broken)) == []
    assert find_patches(io.BytesIO(b"RIFF" + bytes(100))) == []


def test_boxes_without_end_are_given_up(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "_MAX_BOXES", 200)
    data = files["DASH"]
    assert find_patches(io.BytesIO(damaged(data, moofs(data)[3], 8))) != []
    many = data + struct.pack(">I4s", 8, b"free") * 200
    assert find_patches(io.BytesIO(damaged(many, moofs(data)[3], 8))) == []


def test_a_live_stream_that_was_joined_late_is_not_cut(files: dict[str, bytes]) -> None:
    data = files["relative offsets"]
    starts = moofs(data)
    pcm, warnings = read(data[: starts[0]] + data[starts[3] :])
    assert len(pcm) == pytest.approx(3 * SAMPLE_RATE, abs=0.2 * SAMPLE_RATE)
    assert warnings == []
