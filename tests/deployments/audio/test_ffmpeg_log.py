"""What ffmpeg's log says of a file."""

from pathlib import Path

import pytest

from deployments.audio.ffmpeg_log import FfmpegLog
from deployments.audio.reading import read_audio
from tests.support.media import run_ffmpeg

TWO_PROGRAMS = b"""\
[info] Input #0, mpegts, from 'fd:':
[info]   Duration: 00:00:05.04, start: 1.400000, bitrate: 70 kb/s
[info]   Program 1
[info]   Stream #0:0[0x100]: Audio: aac (LC), 44100 Hz, mono, fltp, 69 kb/s
[info]   Stream #0:1[0x101]: Audio: ac3, 48000 Hz, stereo, fltp, 192 kb/s
[info]   Program 2
[info]   Stream #0:0[0x100]: Audio: aac (LC), 44100 Hz, mono, fltp, 69 kb/s
[info]   Stream #0:2[0x102]: Audio: mp2, 48000 Hz, stereo, fltp, 192 kb/s
"""


@pytest.mark.parametrize(("track", "codec"), [(0, "aac"), (1, "ac3"), (2, "mp2")])
def test_a_stream_of_two_programs_is_one(track: int, codec: str) -> None:
    log = FfmpegLog(track)
    log.feed(TWO_PROGRAMS)
    assert log.facts(trims_delay=False).codec == codec


@pytest.mark.parametrize("codec", ["libopus", "libvorbis", "flac"])
@pytest.mark.parametrize("start_s", [0, 4])
def test_the_stated_length_of_ogg_that_begins_late(
    codec: str, start_s: int, tmp_path: Path
) -> None:
    path = tmp_path / "late.ogg"
    tone = ("-f", "lavfi", "-i", "sine=sample_rate=48000:duration=10")
    run_ffmpeg(*tone, "-c:a", codec, "-output_ts_offset", str(start_s), path)
    stated: list[float | None] = []
    n_samples = sum(map(len, read_audio(path, on_open=stated.append)))
    assert n_samples == pytest.approx(160_000, abs=400)
    assert stated == [pytest.approx(10, abs=0.05)]
