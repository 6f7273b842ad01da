"""Sound is where the file's clock says it is, in every container, damaged or cut."""

import os
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from deployments.audio.reading import SAMPLE_RATE, AudioLimits, read_audio
from deployments.errors import AudioTooLongError, TruncatedAudioError
from tests.support.media import place_s, read_whole, run_ffmpeg

Pcm = npt.NDArray[np.float64]
RATE = 44_100


def chirp(rate: int, duration_s: float = 2.0, from_hz: float = 300.0) -> Pcm:
    """From its first sample on, in sweeps that differ: it can be found to the sample."""
    t = np.arange(round(rate * duration_s)) / rate
    sweep, number = t % 0.7, t // 0.7
    loud = np.where(sweep < 0.5, 0.5, 0.0)
    cycles = (from_hz + 170 * number) * sweep + 1_500 * sweep**2
    return np.asarray(loud * np.sin(2 * np.pi * cycles))


SOUND, OTHER = chirp(SAMPLE_RATE), chirp(SAMPLE_RATE, 1.5, from_hz=1_100.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sounds")
    for rate in (SAMPLE_RATE, RATE):
        soundfile.write(path / f"{rate}.wav", chirp(rate), rate)
    soundfile.write(path / "other.wav", chirp(RATE, 1.5, from_hz=1_100.0), RATE)
    return path


VIDEO = ("-f", "lavfi", "-i", "color=c=black:s=128x96:r=10:d=5")
LATE = {
    "mp4": ("-c:a", "aac"),
    "mov": ("-c:a", "aac"),
    "mkv": ("-c:a", "aac"),
    "webm": ("-c:v", "libvpx", "-c:a", "libopus"),
    "ts": ("-c:a", "aac"),
    "flv": ("-c:v", "flv", "-c:a", "aac"),
    "wmv": ("-c:a", "wmav2"),
    "3gp": ("-c:v", "h263", "-c:a", "aac"),
    "mpg": ("-r", "25", "-c:v", "mpeg2video", "-c:a", "mp2"),
    "ogv": ("-c:v", "libtheora", "-c:a", "libvorbis"),
}


@pytest.mark.parametrize("late_s", [0, 2])
@pytest.mark.parametrize("layout", LATE)
def test_a_videos_sound_starts_where_its_pictures_clock_says(
    layout: str, late_s: int, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"late.{layout}"
    sound = ("-itsoffset", str(late_s), "-i", folder / f"{RATE}.wav")
    run_ffmpeg(*VIDEO, *sound, "-map", "0:v", "-map", "1:a", *LATE[layout], path)
    pcm, warnings = read_whole(path)
    assert warnings == []
    assert place_s(pcm, SOUND) == pytest.approx(late_s, abs=0.01)
    assert len(pcm) / SAMPLE_RATE == pytest.approx(late_s + 2, abs=0.1)


GAPS = {
    "m4a": ("-c:a", "aac"),
    "mov": ("-c:a", "aac"),
    "fragmented.mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"),
    "opus.ogg": ("-c:a", "libopus"),
    "vorbis.ogg": ("-c:a", "libvorbis"),
    "flac.ogg": ("-c:a", "flac"),
    "opus.webm": ("-c:a", "libopus"),
    "mka": ("-c:a", "aac"),
    "flv": ("-c:a", "aac"),
    "ts": ("-c:a", "aac"),
    "wma": ("-c:a", "wmav2"),
    "amr.3gp": ("-ar", "8000", "-c:a", "libopencore_amrnb"),
}


@pytest.mark.parametrize("layout", GAPS)
def test_a_gap_is_as_long_as_the_clock_says(layout: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"gap.{layout}"
    gap = "apad=pad_dur=13,atrim=0:15[a];[a][1:a]concat=n=2:v=0:a=1"
    cut = "aselect='lt(t\\,2)+gte(t\\,15)'"
    inputs = ("-i", folder / f"{RATE}.wav", "-i", folder / "other.wav")
    run_ffmpeg(*inputs, "-filter_complex", f"[0:a]{gap},{cut}", *GAPS[layout], path)
    pcm, warnings = read_whole(path)
    assert warnings == []
    assert place_s(pcm[: 5 * SAMPLE_RATE], SOUND) == pytest.approx(0, abs=0.01)
    assert 10 + place_s(pcm[10 * SAMPLE_RATE :], OTHER) == pytest.approx(15, abs=0.01)
    assert np.abs(pcm[3 * SAMPLE_RATE : 14 * SAMPLE_RATE]).max() < 1e-3


@pytest.mark.parametrize(
    "layout", ["m4a", "opus.ogg", "vorbis.ogg", "flac.ogg", "opus.webm", "flv", "ts", "wma"]
)
@pytest.mark.parametrize("start_s", [1000, 20_000])
def test_a_recording_cut_out_of_a_stream_begins_at_0(
    layout: str, start_s: int, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"live.{layout}"
    sound = ("-i", folder / f"{RATE}.wav")
    run_ffmpeg(*sound, *GAPS[layout], "-output_ts_offset", str(start_s), path)
    pcm, warnings = read_whole(path)
    assert warnings == []
    assert place_s(pcm, SOUND) == pytest.approx(0, abs=0.01)
    assert len(pcm) / SAMPLE_RATE == pytest.approx(2, abs=0.06)


@pytest.mark.parametrize("offsets_s", [(20, 0), (90_000, 0), (0, 30_000), (95_440, 95_442)])
def test_streams_joined_out_of_order_follow_each_other(
    offsets_s: tuple[int, int], folder: Path, tmp_path: Path
) -> None:
    """The clock jumps back, leaps by hours, or wraps around (33 bits of 1/90,000 s)."""
    data = b""
    for offset_s in offsets_s:
        path = tmp_path / f"{offset_s}.ts"
        sound = ("-i", folder / f"{RATE}.wav", "-c:a", "aac")
        run_ffmpeg(*sound, "-output_ts_offset", str(offset_s), path)
        data += path.read_bytes()
    pcm, warnings = read_whole(data)
    assert warnings == []
    assert len(pcm) / SAMPLE_RATE == pytest.approx(4.0, abs=0.1)
    assert place_s(pcm[: 2 * SAMPLE_RATE], SOUND) == pytest.approx(0, abs=0.01)


DELAYS = {
    "bare.mp3": ("-write_xing", "0", "-b:a", "64k"),
    "lame.mp3": ("-b:a", "64k"),
    "adts.aac": ("-c:a", "aac"),
    "m4a": ("-c:a", "aac"),
    "fragmented.mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"),
    "mp3.ts": ("-c:a", "libmp3lame"),
    "aac.ts": ("-c:a", "aac"),
    "mp2": ("-c:a", "mp2"),
    "mp3.avi": ("-c:a", "libmp3lame"),
    "mp3.wav": ("-c:a", "libmp3lame"),
    "mp3.mka": ("-c:a", "libmp3lame"),
    "opus.ogg": ("-c:a", "libopus"),
    "vorbis.ogg": ("-c:a", "libvorbis"),
    "wma": ("-c:a", "wmav2"),
    "ac3": ("-c:a", "ac3"),
    "amr": ("-ar", "8000", "-c:a", "libopencore_amrnb"),
}


@pytest.mark.parametrize("rate", [SAMPLE_RATE, RATE])
@pytest.mark.parametrize("layout", DELAYS)
def test_the_codecs_delay_is_taken_off(
    layout: str, rate: int, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{layout}"
    run_ffmpeg("-i", folder / f"{rate}.wav", *DELAYS[layout], path)
    pcm, warnings = read_whole(path)
    assert warnings == []
    assert place_s(pcm, SOUND) == pytest.approx(0, abs=0.01)


def test_a_stream_cut_out_of_a_longer_one_keeps_its_first_samples(
    folder: Path, tmp_path: Path
) -> None:
    """Its first frame is full of sound, so it is no encoder's delay."""
    path = tmp_path / "x.aac"
    run_ffmpeg("-i", folder / f"{RATE}.wav", "-c:a", "aac", path)
    data = path.read_bytes()
    offset = 0
    for _ in range(8):  # frames, in the middle of the first sweep
        offset += (data[offset + 3] & 3) << 11 | data[offset + 4] << 3 | data[offset + 5] >> 5
    pcm, _ = read_whole(data[offset:])
    whole, _ = read_whole(data)
    assert (len(whole) - len(pcm)) / SAMPLE_RATE == pytest.approx(7 * 1_024 / RATE, abs=0.001)


FIVE_S = 10.0
DAMAGED = {
    "opus.ogg": ("-c:a", "libopus"),
    "vorbis.ogg": ("-c:a", "libvorbis"),
    "opus.webm": ("-c:a", "libopus", "-cluster_time_limit", "1000"),
    "mp3": ("-b:a", "64k"),
    "adts.aac": ("-c:a", "aac"),
    "m4a": ("-c:a", "aac", "-movflags", "+faststart"),
    "ts": ("-c:a", "aac"),
    "flv": ("-c:a", "aac"),
    "flac": (),
    "wma": ("-c:a", "wmav2"),
}


def make_long(layout: str, options: tuple[str, ...], folder: Path, tmp_path: Path) -> bytes:
    """8 s of noise between two other sounds: no stretch of it is like another."""
    noise = np.random.default_rng(0).normal(0, 0.05, round(RATE * 6.5))
    parts = [chirp(RATE), noise, chirp(RATE, 1.5, from_hz=1_100.0)]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), RATE)
    path = tmp_path / f"long.{layout}"
    run_ffmpeg("-i", tmp_path / "long.wav", *options, path)
    return path.read_bytes()


@pytest.mark.parametrize("layout", DAMAGED)
def test_damage_in_the_middle_costs_only_itself(layout: str, folder: Path, tmp_path: Path) -> None:
    data = bytearray(make_long(layout, DAMAGED[layout], folder, tmp_path))
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(1).bytes(400)
    pcm, warnings = read_whole(bytes(data))
    assert place_s(pcm[: 3 * SAMPLE_RATE], SOUND) == pytest.approx(0, abs=0.01)
    tail_s = FIVE_S - 1.5
    start = round((tail_s - 0.4) * SAMPLE_RATE)
    assert place_s(pcm[start:], OTHER) == pytest.approx(0.4, abs=0.02)
    if layout == "wma":  # of which ffmpeg says nothing: it may as well be a pause
        assert warnings == []
        return
    [warning] = warnings
    assert warning.code == "damaged"
    assert warning.start_s is not None and warning.end_s is not None
    assert 2 < warning.start_s < warning.end_s < tail_s
    assert warning.end_s - warning.start_s < 2.2, "an Ogg page holds a second or two"


CUT = {
    "opus.ogg": None,
    "vorbis.ogg": None,
    "bare.mp3": None,
    "adts.aac": None,
    "ts": None,
    "mpg": None,
    "wma": None,
    "fragmented.mp4": None,
    "mp3": FIVE_S,
    "m4a": FIVE_S,
    "flac": FIVE_S,
    "flv": FIVE_S,
    "opus.webm": FIVE_S,
}


@pytest.mark.parametrize("layout", CUT)
def test_a_cut_file_is_read_as_far_as_it_goes(layout: str, folder: Path, tmp_path: Path) -> None:
    options = (DELAYS | DAMAGED | {"mpg": ("-c:a", "mp2")})[layout]
    if "fragmented" in layout:
        options = (*options, "-frag_duration", "1000000")
    data = make_long(layout, options, folder, tmp_path)
    pcm, [warning] = read_whole(data[: len(data) // 2 + 77])
    assert warning.code == "truncated"
    assert warning.start_s == pytest.approx(len(pcm) / SAMPLE_RATE)
    assert 3.5 < len(pcm) / SAMPLE_RATE < 6.5
    end_s = CUT[layout]
    if end_s is not None:
        assert warning.end_s == pytest.approx(end_s, abs=0.1)
    whole, none = read_whole(data)
    assert none == [] and len(whole) / SAMPLE_RATE == pytest.approx(FIVE_S, abs=0.1)


def test_an_index_that_is_cut_off_is_named(folder: Path, tmp_path: Path) -> None:
    data = make_long("m4a", ("-c:a", "aac"), folder, tmp_path)
    with pytest.raises(TruncatedAudioError, match=r"the index \(moov\) .* is cut off"):
        read_whole(data[: len(data) // 2])


def test_tags_between_joined_mp3s_are_no_damage(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    run_ffmpeg("-i", folder / f"{RATE}.wav", "-metadata", f"title={'x' * 5_000}", path)
    pcm, warnings = read_whole(2 * path.read_bytes())
    assert warnings == []
    assert len(pcm) / SAMPLE_RATE == pytest.approx(4.06, abs=0.05)


def test_silence_counts_against_the_limit(folder: Path) -> None:
    """Nine gaps of 20 s each."""
    gaps = "asetnsamples=8820,asetpts='PTS+20*floor(N/8820)/TB'"
    layout = ("-c:a", "flac", "-f", "matroska", "-")  # a pipe: no length in the header
    data = run_ffmpeg("-i", folder / f"{RATE}.wav", "-af", gaps, *layout)
    pcm, _ = read_whole(data)
    assert len(pcm) / SAMPLE_RATE == pytest.approx(9 * 20 + 2, abs=0.1)
    n_samples = 0
    with pytest.raises(AudioTooLongError, match="60 s allowed"):
        for block in read_audio(data, AudioLimits(max_duration_s=60), block_s=1.0):
            n_samples += len(block)
    assert 0 < n_samples <= 60 * SAMPLE_RATE


def test_ffmpeg_uses_one_thread_of_the_decoder(folder: Path, tmp_path: Path) -> None:
    """However many cores there are: FLAC would be decoded on all of them."""
    path = tmp_path / "long.flac"
    run_ffmpeg("-stream_loop", "200", "-i", folder / f"{RATE}.wav", path)
    threads = []
    for n_decoder_threads in (1, 8):
        limits = AudioLimits(decoder_threads=n_decoder_threads)
        blocks = read_audio(path, limits, block_s=0.5)
        next(blocks)
        command = ["ps", "-ww", "--ppid", str(os.getpid()), "-o", "nlwp=,args="]
        rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        threads += [int(row.split()[0]) for row in rows.splitlines() if "stats_enc_pre" in row]
        blocks.close()
    assert threads[0] <= 7, "the decoder's, and ffmpeg's own six"
    assert len(threads) == 2 and threads[1] > threads[0], "the bound is what bounds them"
