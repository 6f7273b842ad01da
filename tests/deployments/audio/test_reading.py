"""Decoding: every container keeps the sound, every bad input gets its own error, nothing leaks."""

import gc
import io
import os
import pickle
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

import deployments.audio.ffmpeg_process
from deployments.audio.header import find_data_chunk
from deployments.audio.reading import SAMPLE_RATE, AudioLimits, Source, read_audio
from deployments.audio.report import AudioReport
from deployments.errors import (
    AudioDecodeTimeoutError,
    AudioError,
    AudioNotFoundError,
    AudioTooLongError,
    AudioTooShortError,
    DeploymentError,
    EmptyAudioError,
    NotAudioError,
    TruncatedAudioError,
)
from deployments.messages import AudioWarning
from tests.support.media import run_ffmpeg

Pcm = npt.NDArray[np.int16]
TONE_HZ = 440.0
TONE_S = 2.0


def tone(rate: int, duration_s: float = TONE_S, hz: float = TONE_HZ) -> npt.NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * duration_s)) / rate)


def stereo(mono: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.stack([mono, mono], axis=1)


def read_all(source: Source, **options: Any) -> Pcm:
    return np.concatenate(list(read_audio(source, **options)))


def read_cut(source: Source, **options: Any) -> tuple[Pcm, AudioWarning]:
    """What is there of a file, and its only warning."""
    report = AudioReport()
    pcm = read_all(source, report=report, **options)
    [warning] = report.warnings
    assert warning.code == "truncated"
    assert warning.start_s == pytest.approx(len(pcm) / SAMPLE_RATE)
    return pcm, warning


def read_until_error(source: Source, **options: Any) -> tuple[Pcm, AudioError | None]:
    blocks = [np.zeros(0, np.int16)]
    try:
        blocks.extend(read_audio(source, **options))
    except AudioError as error:
        return np.concatenate(blocks), error
    return np.concatenate(blocks), None


def main_frequency(pcm: Pcm) -> float:
    middle = pcm[len(pcm) // 4 : 3 * len(pcm) // 4].astype(np.float64)
    n = 8 * len(middle)  # zero padding interpolates between the bins
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), n))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / n


def children() -> set[int]:
    """Processes whose parent is this one, dead ones that nobody has waited for included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


@pytest.fixture
def temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go during the test."""
    path = tmp_path / "temp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Of what tests make alone: torch's modules would take longer than most of these tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_leaks(quick_collections: None) -> Iterator[None]:
    gc.collect()  # what an earlier test left is not this one's
    before, open_before = children(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert children() == before
    # Fewer, if what an earlier module left was closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= open_before


@pytest.fixture
def tone_wav(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    soundfile.write(path, stereo(tone(44_100)), 44_100)
    return path


# name -> arguments of ffmpeg, from a 44.1 kHz stereo tone
CONTAINERS: dict[str, tuple[str, ...]] = {
    "pcm.wav": (),
    "pcm24.wav": ("-c:a", "pcm_s24le"),
    "float.wav": ("-c:a", "pcm_f32le"),
    "double.wav": ("-c:a", "pcm_f64le"),
    "u8.wav": ("-c:a", "pcm_u8"),
    "alaw.wav": ("-c:a", "pcm_alaw"),
    "mulaw.wav": ("-c:a", "pcm_mulaw"),
    "adpcm.wav": ("-c:a", "adpcm_ima_wav"),
    "rf64.wav": ("-rf64", "always"),
    "sony.w64": (),
    "apple.aiff": (),
    "apple.caf": (),
    "sun.au": (),
    "x.flac": (),
    "vorbis.ogg": ("-c:a", "libvorbis"),
    "opus.ogg": ("-c:a", "libopus"),
    "cbr.mp3": ("-b:a", "128k"),
    "vbr.mp3": ("-q:a", "4"),
    "aac.m4a": ("-c:a", "aac"),
    "faststart.m4a": ("-c:a", "aac", "-movflags", "+faststart"),
    "opus.webm": ("-c:a", "libopus"),
    "flac.mka": ("-c:a", "flac"),
}
VIDEO = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=2")


class TestContainers:
    @pytest.mark.parametrize("name", CONTAINERS)
    def test_a_tone_keeps_its_pitch_level_and_length(
        self, name: str, tone_wav: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        run_ffmpeg("-i", tone_wav, *CONTAINERS[name], path)
        pcm = read_all(path)

        assert pcm.dtype == np.int16 and pcm.ndim == 1
        # ADPCM pads its last block (1,012 frames here); Opus at 48 kHz pads to 20 ms.
        padding_s = {"adpcm.wav": 0.05, "opus.ogg": 0.02, "opus.webm": 0.02}.get(name, 0.005)
        assert abs(len(pcm) / SAMPLE_RATE - TONE_S) <= padding_s
        assert abs(main_frequency(pcm) - TONE_HZ) < 0.5
        level = np.sqrt(np.mean((pcm[8_000:24_000] / 32_768.0) ** 2))
        assert level == pytest.approx(0.5 / np.sqrt(2), rel=0.05)

    @pytest.mark.parametrize("name", ["pcm.wav", "x.flac", "apple.aiff", "flac.mka", "sun.au"])
    def test_lossless_containers_give_the_same_samples(
        self, name: str, tone_wav: Path, tmp_path: Path
    ) -> None:
        """Both readers end in the same resampler."""
        path = tmp_path / name
        run_ffmpeg("-i", tone_wav, *CONTAINERS[name], path)
        assert np.array_equal(read_all(path), read_all(tone_wav))

    @pytest.mark.parametrize("name", ["pcm.wav", "x.flac", "cbr.mp3", "opus.webm", "aac.m4a"])
    def test_bytes_and_path_are_the_same(
        self, name: str, tone_wav: Path, tmp_path: Path, temp_dir: Path
    ) -> None:
        path = tmp_path / name
        run_ffmpeg("-i", tone_wav, *CONTAINERS[name], path)
        assert np.array_equal(read_all(path.read_bytes()), read_all(str(path)))
        assert list(temp_dir.iterdir()) == []

    @pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.mkv"])
    def test_the_sound_of_a_video(self, name: str, tone_wav: Path, tmp_path: Path) -> None:
        path = tmp_path / name
        run_ffmpeg(*VIDEO, "-i", tone_wav, "-map", "0:v", "-map", "1:a", path)
        pcm = read_all(path)
        assert abs(len(pcm) / SAMPLE_RATE - TONE_S) <= 0.02
        assert abs(main_frequency(pcm) - TONE_HZ) < 0.5

    def test_a_video_may_outlast_its_sound(self, tone_wav: Path, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        sound = ("-t", "0.5", "-i", tone_wav)
        run_ffmpeg(*VIDEO, *sound, "-map", "0:v", "-map", "1:a", path)
        assert len(read_all(path)) / SAMPLE_RATE == pytest.approx(0.5, abs=0.03)

    def test_cover_art_is_no_video(self, tone_wav: Path, tmp_path: Path) -> None:
        path, art = tmp_path / "cover.mp3", tmp_path / "art.png"
        run_ffmpeg("-f", "lavfi", "-i", "color=size=32x32", "-frames:v", "1", art)
        streams = ("-map", "0", "-map", "1", "-c:v", "copy")
        run_ffmpeg("-i", tone_wav, "-i", art, *streams, "-disposition:v", "attached_pic", path)
        assert len(read_all(path)) == pytest.approx(TONE_S * SAMPLE_RATE, abs=80)
        data = path.read_bytes()
        _, warning = read_cut(data[: len(data) * 6 // 10])
        assert warning.end_s == pytest.approx(TONE_S, abs=0.06)

    def test_telephone_stereo(self, tmp_path: Path) -> None:
        path = tmp_path / "call.wav"
        left, right = tone(8_000, hz=440), np.zeros(16_000)
        soundfile.write(path, np.stack([left, right], axis=1), 8_000, subtype="ULAW")
        pcm = read_all(path)
        assert len(pcm) == TONE_S * SAMPLE_RATE
        assert abs(main_frequency(pcm) - 440) < 0.5
        assert np.abs(pcm).max() == pytest.approx(0.25 * 32_768, rel=0.05)  # the mean of both

    def test_a_writer_to_a_pipe_leaves_lengths_open(self, tone_wav: Path) -> None:
        for layout in ("wav", "flac", "mp3", "ogg", "au", "caf", "matroska", "aiff", "avi"):
            data = run_ffmpeg("-i", tone_wav, "-f", layout, "-")
            pcm, error = read_until_error(data)
            assert error is None, layout
            # MP3 then has no header to tell how much of its first and last frame is padding.
            allowed = 2_000 if layout in ("mp3", "avi") else 80
            assert abs(len(pcm) - TONE_S * SAMPLE_RATE) <= allowed, layout

    def test_vbr_mp3_without_a_length_is_read_to_its_end(self, tmp_path: Path) -> None:
        """libsndfile estimates its length from the silence it begins with, and stops there."""
        wav, mp3 = tmp_path / "x.wav", tmp_path / "x.mp3"
        samples = np.concatenate([np.zeros(44_100), tone(44_100, 4)])
        soundfile.write(wav, samples, 44_100)
        run_ffmpeg("-i", wav, "-q:a", "4", "-write_xing", "0", "-id3v2_version", "0", mp3)
        assert len(read_all(mp3)) / SAMPLE_RATE == pytest.approx(5, abs=0.1)

    def test_chained_ogg_is_read_to_its_end(self, tone_wav: Path, tmp_path: Path) -> None:
        """libsndfile stops after the first link."""
        path = tmp_path / "link.ogg"
        run_ffmpeg("-i", tone_wav, "-c:a", "libvorbis", path)
        pcm = read_all(2 * path.read_bytes())
        assert len(pcm) / SAMPLE_RATE == pytest.approx(2 * TONE_S, abs=0.1)

    def test_a_chain_that_ffmpeg_cannot_follow_is_no_silent_loss(
        self, tone_wav: Path, tmp_path: Path
    ) -> None:
        """ffmpeg exits with 0 where the second link has fewer channels."""
        one, two = tmp_path / "one.ogg", tmp_path / "two.ogg"
        run_ffmpeg("-i", tone_wav, "-c:a", "libvorbis", one)
        run_ffmpeg("-i", tone_wav, "-c:a", "libvorbis", "-ac", "1", two)
        pcm, warning = read_cut(one.read_bytes() + two.read_bytes())
        assert len(pcm) / SAMPLE_RATE == pytest.approx(TONE_S, abs=0.05)
        assert "broke off" in warning.message and "channels changes" in warning.message

    @pytest.mark.parametrize(
        "name", ["-i.mp3", "http:tone.mp3", "pipe:0", "a b'\"%d$(x).mp3", "tone.raw", "ü\n.mp3"]
    )
    def test_any_file_name_is_only_a_name(
        self, name: str, tone_wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_ffmpeg("-i", tone_wav, "-f", "mp3", tmp_path / "x")
        (tmp_path / "x").rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert len(read_all(name)) == pytest.approx(TONE_S * SAMPLE_RATE, abs=80)

    def test_a_wav_named_raw(self, tone_wav: Path, tmp_path: Path) -> None:
        path = tone_wav.rename(tmp_path / "tone.raw")
        assert len(read_all(path)) == TONE_S * SAMPLE_RATE


class TestSamples:
    def test_16_bit_mono_at_16_khz_passes_through_unchanged(self, tmp_path: Path) -> None:
        path = tmp_path / "x.wav"
        pcm = np.random.default_rng(0).integers(-32_768, 32_768, 40_000).astype(np.int16)
        pcm[:2] = [-32_768, 32_767]
        soundfile.write(path, pcm, SAMPLE_RATE)
        assert np.array_equal(read_all(path), pcm)
        flac = tmp_path / "x.flac"
        soundfile.write(flac, pcm, SAMPLE_RATE)
        assert np.array_equal(read_all(flac), pcm)

    @pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
    def test_blocks_resample_like_the_whole(self, rate: int, tmp_path: Path) -> None:
        path = tmp_path / "x.wav"
        noise = np.random.default_rng(rate).normal(0, 0.1, 10 * rate).astype(np.float32)
        soundfile.write(path, noise, rate, subtype="FLOAT")
        blocks = list(read_audio(path, block_s=0.37))
        whole = soxr.resample(noise, rate, SAMPLE_RATE, quality="HQ")
        expected = np.clip(np.rint(whole * 32_768), -32_768, 32_767)

        assert {len(block) for block in blocks[:-1]} == {5_920}
        assert 0 < len(blocks[-1]) <= 5_920
        joined = np.concatenate(blocks)
        assert len(joined) == len(expected) == 10 * SAMPLE_RATE
        assert np.abs(joined - expected).max() <= 1

    def test_the_block_size_changes_nothing(self, tone_wav: Path) -> None:
        expected = read_all(tone_wav)
        for block_s in (1 / SAMPLE_RATE * 333, 0.1, 1.0, 2.0, 1_000.0):
            assert np.array_equal(read_all(tone_wav, block_s=block_s), expected)

    @pytest.mark.parametrize("layout", ["wav", "matroska"])
    def test_nan_and_infinity_are_silence_and_loud_is_clamped(
        self, layout: str, tmp_path: Path
    ) -> None:
        wav, path = tmp_path / "x.wav", tmp_path / "x"
        samples = np.zeros((SAMPLE_RATE, 2), np.float32)
        samples[1_000] = [np.nan, 0.5]
        samples[2_000] = [np.inf, -np.inf]
        samples[3_000] = [3e38, 3e38]  # their sum is no float32
        samples[4_000] = [-7, -7]
        soundfile.write(wav, samples, SAMPLE_RATE, subtype="FLOAT")
        run_ffmpeg("-i", wav, "-c:a", "copy", "-f", layout, path)
        pcm = read_all(path)
        assert pcm[[1_000, 2_000, 3_000, 4_000]].tolist() == [8_192, 0, 32_767, -32_768]
        assert np.count_nonzero(pcm) == 3

    def test_many_channels(self, tmp_path: Path) -> None:
        path = tmp_path / "x.wav"
        channels = np.zeros((4_000, 64), np.float32)
        channels[:, 5] = 0.64
        soundfile.write(path, channels, SAMPLE_RATE, subtype="FLOAT")
        assert np.all(np.abs(read_all(path) - 328) <= 1)


class TestMemory:
    def test_a_long_sparse_file_is_read_in_small_blocks(self, tmp_path: Path) -> None:
        path = tmp_path / "long.wav"
        soundfile.write(path, np.zeros(1, np.int16), SAMPLE_RATE)
        n_samples = 1_800 * SAMPLE_RATE
        with path.open("r+b") as file:
            file.truncate(44 + 2 * n_samples)
            file.seek(40)
            file.write(struct.pack("<I", 2 * n_samples))
        tracemalloc.start()
        try:
            lengths = [(len(block), block.nbytes) for block in read_audio(path)]
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert lengths == [(480_000, 960_000)] * 60
        assert peak_bytes < 16 * 1024**2 < 2 * n_samples

    def test_ffmpeg_waits_for_a_slow_consumer(self, tmp_path: Path) -> None:
        path = tmp_path / "long.flac"
        run_ffmpeg("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", "1800", path)
        tracemalloc.start()
        try:
            lengths = [len(block) for block in read_audio(path)]
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert lengths == [480_000] * 60
        assert peak_bytes < 16 * 1024**2

    @pytest.mark.parametrize("rf64", [True, False])
    def test_100_hours_promised_by_1_kb(self, rf64: bool) -> None:
        promised = 100 * 3600 * SAMPLE_RATE * 2 if rf64 else 100 * 3600 * 8_000
        rate, width = (SAMPLE_RATE, 2) if rf64 else (8_000, 1)
        fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * width, width, 8 * width)
        if rf64:
            ds64 = struct.pack("<4sIQQQI", b"ds64", 28, promised + 72, promised, 0, 0)
            head = struct.pack("<4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE") + ds64 + fmt
            head += struct.pack("<4sI", b"data", 0xFFFFFFFF)
        else:
            head = struct.pack("<4sI4s", b"RIFF", promised + 36, b"WAVE") + fmt
            head += struct.pack("<4sI", b"data", promised)
        began = time.monotonic()
        pcm, warning = read_cut(head + bytes([128]) * 1_000)
        assert warning.end_s == pytest.approx(360_000, rel=0.001)
        assert len(pcm) / SAMPLE_RATE < 0.2
        assert time.monotonic() - began < 1


class TestNotFound:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(AudioNotFoundError, match="'gone.wav': No such file"):
            read_all(tmp_path / "gone.wav")

    def test_url_is_no_file(self) -> None:
        with pytest.raises(AudioNotFoundError):
            read_all("http://127.0.0.1:9/x.mp3")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(AudioNotFoundError, match="it is a folder"):
            read_all(tmp_path)

    def test_fifo_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(AudioNotFoundError, match="not a regular file"):
            read_all(tmp_path / "fifo")

    def test_nul_in_the_path(self) -> None:
        with pytest.raises(AudioNotFoundError):
            read_all("a\0b")

    def test_unreadable(self, tone_wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)  # root may read anything
        with pytest.raises(AudioNotFoundError, match="Permission denied"):
            read_all(tone_wav)


class TestNotAudio:
    @pytest.mark.parametrize(
        "content",
        [
            b"\0",
            b"Hello, this is a plain text file, not audio.\n" * 100,
            np.random.default_rng(1).bytes(100_000),
            b"RIFF\x24\x00\x00\x00WAVE",
            b"ID3\x04\x00\x00\x00\x00\x00\x00",
            b"\x89PNG\r\n\x1a\n" + bytes(1_000),
            bytes(100_000),
        ],
        ids=["nul", "text", "noise", "riff", "id3", "png", "zeros"],
    )
    def test_other_bytes(self, content: bytes, temp_dir: Path) -> None:
        with pytest.raises(NotAudioError) as caught:
            read_all(content)
        reason = caught.value.reason
        assert reason == str(caught.value) and "\n" not in reason
        assert str(temp_dir) not in reason and len(reason) < 250
        assert list(temp_dir.iterdir()) == []

    def test_video_without_sound(self, tmp_path: Path) -> None:
        path = tmp_path / "silent.mp4"
        run_ffmpeg(*VIDEO, path)
        with pytest.raises(NotAudioError, match="no audio stream"):
            read_all(path)

    def test_sample_rate_out_of_range(self, tmp_path: Path) -> None:
        path = tmp_path / "slow.wav"
        soundfile.write(path, np.zeros(100), 10)
        with pytest.raises(NotAudioError, match="sample rate of 10 Hz"):
            read_all(path)

    @pytest.mark.parametrize("suffix", ["", ".mp3", ".wav", ".m3u8"])
    @pytest.mark.parametrize("kind", ["hls", "concat", "xspf", "sdp", "dash", "smil"])
    def test_playlists_reach_no_other_file(
        self, kind: str, suffix: str, tone_wav: Path, tmp_path: Path
    ) -> None:
        url = tone_wav.as_uri()
        text = {
            "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n"
            f"{url}\n#EXT-X-ENDLIST\n",
            "concat": f"ffconcat version 1.0\nfile '{tone_wav.name}'\n",
            "xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/">'
            f"<trackList><track><location>{url}</location></track></trackList></playlist>",
            "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            "m=audio 5004 RTP/AVP 0\na=rtpmap:0 PCMU/8000\n",
            "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
            'type="static"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1">'
            f"<BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>",
            "smil": f'<smil><body><audio src="{url}"/></body></smil>',
        }[kind]
        path = tmp_path / f"list{suffix}"
        path.write_text(text)
        for source in (path, text.encode()):
            with pytest.raises(NotAudioError) as caught:
                read_all(source)
            assert str(tmp_path) not in caught.value.reason

    def test_a_playlist_that_ffmpeg_would_follow_is_stopped_by_both_guards(
        self, tone_wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The bait works without the guards, and fails with either one alone."""
        bait = tmp_path / "list.mp3"
        bait.write_text(f"ffconcat version 1.0\nfile '{tone_wav.name}'\n")
        assert len(run_ffmpeg("-i", bait, "-f", "s16le", "-")) > 300_000
        with pytest.raises(NotAudioError, match="it is a playlist"):
            read_all(bait)
        monkeypatch.setattr(deployments.audio.ffmpeg_process, "_DEMUXERS", "concat,wav")
        with pytest.raises(NotAudioError):
            read_all(bait)


class TestLength:
    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "empty.wav").touch()
        for source in (b"", tmp_path / "empty.wav"):
            with pytest.raises(EmptyAudioError):
                read_all(source)

    @pytest.mark.parametrize("layout", ["WAV", "FLAC"])
    @pytest.mark.parametrize("n_samples", [1, 1_599])
    def test_too_short(self, n_samples: int, layout: str) -> None:
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(n_samples, np.int16), SAMPLE_RATE, format=layout)
        with pytest.raises(AudioTooShortError, match=rf"{n_samples / SAMPLE_RATE:.3f} s"):
            read_all(buffer.getvalue())

    def test_a_header_without_samples(self) -> None:
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(0, np.int16), SAMPLE_RATE, format="WAV")
        with pytest.raises(AudioTooShortError):
            read_all(buffer.getvalue())

    def test_a_header_whose_samples_are_gone(self, tone_wav: Path) -> None:
        with pytest.raises(TruncatedAudioError, match="stops after its header"):
            read_all(tone_wav.read_bytes()[:44])

    def test_the_shortest_allowed(self) -> None:
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(1_600, np.int16), SAMPLE_RATE, format="WAV")
        assert len(read_all(buffer.getvalue())) == 1_600

    def test_too_long_by_the_header(self, tone_wav: Path, tmp_path: Path) -> None:
        limits = AudioLimits(max_duration_s=1.9)
        for name in ("pcm.wav", "x.flac", "aac.m4a", "cbr.mp3"):
            path = tmp_path / name
            run_ffmpeg("-i", tone_wav, *CONTAINERS[name], path)
            pcm, error = read_until_error(path, limits=limits, block_s=0.1)
            assert isinstance(error, AudioTooLongError), name
            assert len(pcm) == 0, name

    def test_too_long_while_decoding(self, tone_wav: Path) -> None:
        data = run_ffmpeg("-i", tone_wav, "-f", "flac", "-")
        with pytest.raises(AudioTooLongError):
            read_all(data, limits=AudioLimits(max_duration_s=1.9))

    def test_just_long_enough(self, tone_wav: Path) -> None:
        assert len(read_all(tone_wav, limits=AudioLimits(max_duration_s=TONE_S))) == 32_000

    def test_too_many_bytes(self, tone_wav: Path) -> None:
        size = tone_wav.stat().st_size
        for source in (tone_wav, tone_wav.read_bytes()):
            with pytest.raises(AudioTooLongError, match=f"{size} bytes"):
                read_all(source, limits=AudioLimits(max_bytes=size - 1))


class TestTruncation:
    @pytest.mark.parametrize(
        "name",
        [
            "pcm.wav", "pcm24.wav", "float.wav", "alaw.wav", "adpcm.wav", "rf64.wav", "sony.w64",
            "apple.aiff", "apple.caf", "sun.au", "x.flac", "cbr.mp3", "vbr.mp3", "faststart.m4a",
            "opus.webm", "flac.mka",
        ],
    )  # fmt: skip
    def test_all_that_is_there_comes_first(self, name: str, tone_wav: Path, tmp_path: Path) -> None:
        path = tmp_path / name
        run_ffmpeg("-i", tone_wav, *CONTAINERS[name], path)
        data = path.read_bytes()
        whole = read_all(data)
        pcm, warning = read_cut(data[: len(data) * 6 // 10], block_s=0.25)

        assert warning.end_s == pytest.approx(TONE_S, abs=0.06)
        assert 0.45 * len(whole) < len(pcm) < 0.65 * len(whole)
        n = len(pcm) - 1_600  # the filter, or the codec, ends differently at a cut
        assert np.abs(pcm[:n].astype(int) - whole[:n]).max() <= 1
        assert "\n" not in warning.message and str(tmp_path) not in warning.message

    def test_video_cut_short(self, tone_wav: Path, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        run_ffmpeg(*VIDEO, "-i", tone_wav, "-movflags", "+faststart", path)
        data = path.read_bytes()
        pcm, _ = read_cut(data[: len(data) * 7 // 10])
        assert len(pcm) > 8_000

    def test_cut_right_after_the_header(self, tone_wav: Path) -> None:
        pcm, error = read_until_error(tone_wav.read_bytes()[:44])
        assert isinstance(error, TruncatedAudioError)
        assert len(pcm) == 0

    @pytest.mark.parametrize(
        "size", [0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB]
    )
    def test_streamed_wav_sizes_are_no_promise(self, size: int, tone_wav: Path) -> None:
        data = bytearray(tone_wav.read_bytes())
        struct.pack_into("<I", data, 40, size)
        assert data[36:40] == b"data"
        expected = read_all(tone_wav)
        for riff_size in (len(data) - 8, 0, 0xFFFFFFFF):
            struct.pack_into("<I", data, 4, riff_size)
            assert np.array_equal(read_all(bytes(data)), expected)

    def test_a_header_counted_as_samples_is_forgiven(self, tone_wav: Path) -> None:
        data = bytearray(tone_wav.read_bytes())
        struct.pack_into("<I", data, 40, len(data))
        assert len(read_all(bytes(data))) == TONE_S * SAMPLE_RATE


class TestHeader:
    def test_sizes_of_a_cut_wav(self, tone_wav: Path) -> None:
        data = tone_wav.read_bytes()
        chunk = find_data_chunk(io.BytesIO(data[:1_044]))
        assert chunk is not None and chunk.is_cut
        assert (chunk.declared_bytes, chunk.held_bytes) == (len(data) - 44, 1_000)
        whole = find_data_chunk(io.BytesIO(data))
        assert whole is not None and not whole.is_cut

    def test_chunks_before_and_after_the_samples(self) -> None:
        body = struct.pack("<4sI3sx", b"odd ", 3, b"abc") + struct.pack("<4sI", b"data", 4)
        head = struct.pack("<4sI4s", b"RIFF", 0, b"WAVE")
        chunk = find_data_chunk(io.BytesIO(head + body + b"1234" + b"LIST" + bytes(50)))
        assert chunk is not None
        assert (chunk.declared_bytes, chunk.held_bytes) == (4, 4)

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"RIFF",
            b"RIFF\0\0\0\0WAVEfm",
            b"RIFF\0\0\0\0WAVE" + struct.pack("<4sI", b"fmt ", 0xFFFFFFF0),
            b"RIFF\0\0\0\0WAVE" + struct.pack("<4sI", b"junk", 0) * 5_000,
            b"caff\0\1\0\0" + struct.pack(">4sQ", b"desc", 2**64 - 1),
            b"RF64\xff\xff\xff\xffWAVE" + struct.pack("<4sI", b"ds64", 4),
            b".snd\0\0",
        ],
    )
    def test_broken_headers_tell_nothing(self, head: bytes) -> None:
        assert find_data_chunk(io.BytesIO(head)) is None


class TestTime:
    @pytest.fixture
    def slow_ffmpeg(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Puts a shell script in ffmpeg's place."""

        def install(body: str) -> None:
            script = tmp_path / "slow-ffmpeg"
            script.write_text(f"#!/bin/bash\n{body}\n")
            script.chmod(0o755)
            monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(script))

        return install

    AU = r"printf '.snd\0\0\0\030\377\377\377\377\0\0\0\006\0\0\076\200\0\0\0\001'"

    def test_standing_still(self, slow_ffmpeg: Callable[[str], None]) -> None:
        slow_ffmpeg(f"{self.AU}; exec sleep 60")
        began = time.monotonic()
        with pytest.raises(AudioDecodeTimeoutError, match="stood still for 0.3 s"):
            read_all(b"x" * 100, limits=AudioLimits(stall_timeout_s=0.3))
        assert time.monotonic() - began < 5

    def test_chatter_is_no_progress(self, slow_ffmpeg: Callable[[str], None]) -> None:
        slow_ffmpeg("exec yes complaint >&2")
        with pytest.raises(AudioDecodeTimeoutError, match="stood still"):
            read_all(b"x" * 100, limits=AudioLimits(stall_timeout_s=0.3))

    def test_too_slow_in_all(self, slow_ffmpeg: Callable[[str], None]) -> None:
        slow_ffmpeg(f"{self.AU}; while sleep 0.05; do printf '\\0\\0\\0\\0'; done")
        with pytest.raises(AudioDecodeTimeoutError, match="more than 0.5 s"):
            read_all(b"x" * 100, limits=AudioLimits(decode_timeout_s=0.5))

    def test_the_consumers_time_does_not_count(self, tone_wav: Path, tmp_path: Path) -> None:
        path = tmp_path / "x.flac"
        run_ffmpeg("-stream_loop", "20", "-i", tone_wav, path)
        limits = AudioLimits(stall_timeout_s=1.0, decode_timeout_s=1.0)
        n_samples = 0
        for block in read_audio(path, limits, block_s=20.0):
            n_samples += len(block)
            time.sleep(0.6)
        assert n_samples == 42 * SAMPLE_RATE

    def test_megabytes_of_stderr_do_not_block(self, slow_ffmpeg: Callable[[str], None]) -> None:
        slow_ffmpeg(
            "head -c 20000000 /dev/zero | tr '\\0' x >&2; "
            "yes '[error] broken' | head -n 100000 >&2; "
            f"{self.AU}; head -c 64000 /dev/zero"
        )
        tracemalloc.start()
        try:
            assert len(read_all(b"x" * 100)) == SAMPLE_RATE
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
        finally:
            tracemalloc.stop()

    def test_killed_from_outside_is_not_the_callers_fault(
        self, slow_ffmpeg: Callable[[str], None]
    ) -> None:
        slow_ffmpeg(f"{self.AU}; head -c 64000 /dev/zero; kill -9 $$")
        with pytest.raises(DeploymentError, match="signal 9") as caught:
            read_all(b"x" * 100)
        assert not isinstance(caught.value, AudioError)

    def test_killed_while_it_reads_a_cut_wav(
        self, slow_ffmpeg: Callable[[str], None], tone_wav: Path, tmp_path: Path
    ) -> None:
        """The header shows a cut, too, which does not explain what is missing."""
        coded = tmp_path / "coded.wav"
        run_ffmpeg("-i", tone_wav, "-c:a", "adpcm_ima_wav", coded)
        slow_ffmpeg(f"{self.AU}; head -c 64000 /dev/zero; kill -9 $$")
        with pytest.raises(DeploymentError, match="signal 9"):
            read_all(coded.read_bytes()[:-4_000])

    def test_ffmpeg_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, tone_wav: Path, tmp_path: Path
    ) -> None:
        film = tmp_path / "film.mp4"
        run_ffmpeg("-i", tone_wav, film)

        def missing() -> str:
            raise RuntimeError("No ffmpeg exe could be found")

        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
        for source in (film, b"x" * 100):
            with pytest.raises(DeploymentError, match="ffmpeg is missing"):
                read_all(source)

    def test_a_crash_is_the_files(self, slow_ffmpeg: Callable[[str], None]) -> None:
        slow_ffmpeg("kill -SEGV $$")
        with pytest.raises(NotAudioError):
            read_all(b"x" * 100)

    def test_giving_up_half_way_keeps_what_was_decoded(
        self, slow_ffmpeg: Callable[[str], None]
    ) -> None:
        slow_ffmpeg(f"{self.AU}; head -c 64000 /dev/zero; echo '[error] bad luck' >&2; exit 69")
        pcm, warning = read_cut(b"x" * 100)
        assert len(pcm) == SAMPLE_RATE
        assert "bad luck" in warning.message and warning.end_s is None


class TestClosing:
    @pytest.mark.parametrize("as_bytes", [True, False])
    def test_early_close_ends_ffmpeg_and_frees_the_file(
        self, as_bytes: bool, tone_wav: Path, tmp_path: Path, temp_dir: Path
    ) -> None:
        path = tmp_path / "long.flac"
        run_ffmpeg("-stream_loop", "100", "-i", tone_wav, path)
        before = children()
        blocks = read_audio(path.read_bytes() if as_bytes else path, block_s=0.5)
        next(blocks)
        assert len(children() - before) == 1, "ffmpeg still has most of the file to give"
        blocks.close()
        assert children() == before
        assert list(temp_dir.iterdir()) == []

    def test_nothing_starts_before_the_first_block(self, tone_wav: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        blocks = read_audio(tone_wav)
        assert len(os.listdir("/proc/self/fd")) == before
        blocks.close()

    def test_block_length_is_checked(self, tone_wav: Path) -> None:
        for block_s in (0.0, -1.0):
            with pytest.raises(ValueError, match="block_s"):
                read_all(tone_wav, block_s=block_s)


class TestLimits:
    @pytest.mark.parametrize("name", list(AudioLimits.__slots__))
    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
    def test_each_must_be_positive(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=name):
            AudioLimits(**{name: value})  # type: ignore[arg-type]

    def test_min_below_max(self) -> None:
        with pytest.raises(ValueError, match="exceeds"):
            AudioLimits(min_duration_s=2.0, max_duration_s=1.0)


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(TruncatedAudioError("cut\nshort")))
    assert isinstance(error, TruncatedAudioError)
    assert (str(error), error.reason) == ("cut short", "cut short")
