"""Files with several audio tracks: which one is read, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deployments.audio.reading import SAMPLE_RATE, Samples, Source, TrackWish, read_audio
from deployments.audio.report import AudioReport
from deployments.audio.tracks import Track, candidates, parse_tracks
from deployments.errors import NotAudioError, OptionError
from deployments.messages import AudioInfo
from tests.support.media import run_ffmpeg

VIDEO = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=2")


@dataclass(frozen=True)
class Sound:
    """A track to make: a tone of this frequency, or silence for None."""

    hz: int | None
    language: str = ""
    marks: str = "0"


def make(path: Path, sounds: Sequence[Sound], *more: str) -> Path:
    inputs: list[str] = []
    options: list[str] = ["-map", "0:v"]
    for index, sound in enumerate(sounds):
        source = f"sine=frequency={sound.hz}:r=16000" if sound.hz else "anullsrc=r=16000:cl=mono"
        inputs += ["-f", "lavfi", "-t", "2", "-i", source]
        options += ["-map", f"{index + 1}:a", f"-disposition:a:{index}", sound.marks]
        if sound.language:
            options += [f"-metadata:s:a:{index}", f"language={sound.language}"]
    run_ffmpeg(*VIDEO, *inputs, *options, *more, "-t", "2", path)
    return path


def heard(source: Source, wish: TrackWish = TrackWish()) -> tuple[float, AudioInfo | None]:  # noqa: B008
    """The loudest frequency, and what is said of the audio."""
    report = AudioReport()
    pcm = np.concatenate(list(read_audio(source, report=report, wish=wish)))
    hz = float(np.argmax(np.abs(np.fft.rfft(pcm)))) * SAMPLE_RATE / len(pcm)
    return hz, report.info


FILM = (
    Sound(None, "eng"),
    Sound(500, "eng", "comment"),
    Sound(700, "ger"),
    Sound(900, "fra", "default"),
    Sound(1_100, "ger", "visual_impaired"),
)


@pytest.fixture(scope="module", params=["film.mkv", "film.mp4"])
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("film") / request.param, FILM)


class TestFilm:
    @pytest.mark.parametrize(
        ("track", "languages", "number"),
        [
            (None, (), 4),  # marked as the default one
            (None, ("de",), 3),  # not the one for those who do not see
            (None, ("en",), 2),  # the other English one is silent
            (None, ("es",), 4),
            (None, ("es", "de"), 3),
            ("3", (), 3),
            ("1", ("de",), 1),  # silent, but asked for
            ("5", (), 5),
            ("de", (), 3),
            ("German", (), 3),
            ("ger", (), 3),
            ("fr", ("de",), 4),
        ],
    )
    def test_the_one_that_is_meant(
        self, track: str | None, languages: tuple[str, ...], number: int, film: Path
    ) -> None:
        hz, info = heard(film, TrackWish(track, languages))
        assert info == AudioInfo(number, 5, "mono")
        wanted = FILM[number - 1].hz
        assert wanted is None or hz == pytest.approx(wanted, abs=2)

    @pytest.mark.parametrize("track", ["0", "6", "99", "it", "klingon?", "ü", "-1"])
    def test_one_that_is_not_there(self, track: str, film: Path) -> None:
        with pytest.raises(OptionError) as caught:
            heard(film, TrackWish(track))
        assert caught.value.option == "track"
        assert repr(track) in str(caught.value)
        assert "3 (ger)" in str(caught.value) and "4 (fra, default)" in str(caught.value)

    def test_from_bytes(self, film: Path) -> None:
        hz, info = heard(film.read_bytes(), TrackWish("2"))
        assert hz == pytest.approx(500, abs=2)
        assert info == AudioInfo(2, 5, "mono")


class TestSilent:
    def test_the_first_one_with_sound(self, tmp_path: Path) -> None:
        path = make(tmp_path / "x.mkv", [Sound(None, marks="default"), Sound(None), Sound(600)])
        hz, info = heard(path)
        assert hz == pytest.approx(600, abs=2)
        assert info is not None and info.track == 3

    def test_all_of_them(self, tmp_path: Path) -> None:
        _, info = heard(make(tmp_path / "x.mkv", [Sound(None), Sound(None, marks="default")]))
        assert info is not None and info.track == 2

    def test_sound_that_comes_late(self, tmp_path: Path) -> None:
        """Nothing short of the whole track tells that it is silent."""
        late = np.zeros(90 * SAMPLE_RATE)
        late[-SAMPLE_RATE:] = 0.5 * np.sin(2 * np.pi * 800 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
        for name, sound in (("late", late), ("other", np.roll(late, SAMPLE_RATE))):
            soundfile.write(tmp_path / f"{name}.wav", sound, SAMPLE_RATE)
        inputs = ("-i", tmp_path / "late.wav", "-i", tmp_path / "other.wav")
        path = tmp_path / "x.mka"
        run_ffmpeg(*inputs, "-map", "0", "-map", "1", "-c:a", "flac", path)
        _, info = heard(path)
        assert info is not None and info.track == 1


class TestOneTrack:
    @pytest.mark.parametrize("name", ["x.wav", "x.mp3", "x.m4a"])
    def test_it_may_be_asked_for_and_no_other(self, name: str, tmp_path: Path) -> None:
        run_ffmpeg("-f", "lavfi", "-t", "1", "-i", "sine=frequency=440", tmp_path / name)
        hz, info = heard(tmp_path / name, TrackWish("1"))
        assert hz == pytest.approx(440, abs=2)
        assert info == AudioInfo(1, 1, "mono")
        with pytest.raises(OptionError, match="the file has track 1"):
            heard(tmp_path / name, TrackWish("2"))

    def test_samples(self) -> None:
        with pytest.raises(OptionError, match="no audio track 'de'"):
            heard(Samples(np.zeros(SAMPLE_RATE, np.int16), SAMPLE_RATE), TrackWish("de"))

    def test_no_track_at_all(self, tmp_path: Path) -> None:
        run_ffmpeg(*VIDEO, tmp_path / "x.mp4")
        with pytest.raises(NotAudioError, match="no audio"):
            heard(tmp_path / "x.mp4")


class TestRules:
    """Tracks as ffmpeg lists them."""

    def test_lines_of_ffmpeg(self) -> None:
        log = """
[info]   Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31637661), 1920x1080 (default)
[info]   Stream #0:2[0x3](deu): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, stereo (default)
[info]   Stream #0:1[0x2](und): Audio: aac (LC) (enca / 0x61636E65), 44100 Hz, stereo, 69 kb/s
[info]   Stream #0:3: Audio: opus, 48000 Hz, stereo, start 0.007000 (hearing impaired) (captions)
[info]   Stream #0:4(qaa): Audio: none, 0 channels (comment)
[info]     title           :   Stream #0:9: Audio: forged
"""
        assert parse_tracks(log.splitlines()) == [
            Track(1, is_encrypted=True),
            Track(2, "deu", is_default=True),
            Track(3, is_aside=True),
            Track(4, "qaa", is_aside=True),
        ]

    def test_order(self) -> None:
        tracks = [
            Track(1, "eng", is_aside=True),
            Track(2, "eng", is_encrypted=True),
            Track(3),
            Track(4, "spa", is_default=True),
            Track(5, "en-GB"),
        ]

        def order(*languages: str) -> list[int]:
            return [track.number for track in candidates(tracks, TrackWish(None, languages))]

        assert order() == [4, 3, 5, 1, 2]
        assert order("en") == [5, 3, 1, 4, 2]
        assert order("es") == [4, 3, 5, 1, 2]
        assert order("it")[0] == 3, "one of no language may be in any"
