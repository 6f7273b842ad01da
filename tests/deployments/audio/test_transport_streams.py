"""Transport streams with broken bytes, or without some of their video's packets."""

import numpy as np
import pytest

from tests.support.media import read_whole, run_ffmpeg

PACKET_BYTES = 188
VIDEO = 0x100


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Eight seconds of noise beside video."""
    path = tmp_path_factory.mktemp("ts") / "video.ts"
    video = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=8")
    sound = ("-f", "lavfi", "-i", "anoisesrc=sample_rate=16000:duration=8:seed=1")
    run_ffmpeg(*video, *sound, "-g", "10", path)
    return path.read_bytes()


def pid(packet: bytes) -> int:
    return int.from_bytes(packet[1:3], "big") & 0x1FFF


@pytest.mark.parametrize("at", [4_000, 128_000])
def test_broken_bytes_are_told_where_sound_is_lost(at: int, stream: bytes) -> None:
    n_bytes = len(stream) // 6
    noise = np.random.default_rng(0).bytes(n_bytes)
    pcm, warnings = read_whole(stream[:at] + noise + stream[at + n_bytes :])
    silent = np.abs(pcm) < 1e-3
    lost_s = np.convolve(silent, np.ones(1_600), "same").max() / 1_600
    assert lost_s == 1, "a tenth of a second and more is silent"
    (warning,) = warnings
    assert warning.code == "damaged" and warning.end_s - warning.start_s > 1
    assert len(pcm) == pytest.approx(8.03 * 16_000, abs=1_600)


def test_packets_that_only_the_video_lost_are_not_told(stream: bytes) -> None:
    packets = [stream[i : i + PACKET_BYTES] for i in range(0, len(stream), PACKET_BYTES)]
    middle = range(len(packets) // 2, len(packets) * 2 // 3)
    kept = [p for i, p in enumerate(packets) if i not in middle or pid(p) != VIDEO]
    assert len(kept) < len(packets)
    assert read_whole(b"".join(kept))[1] == []
