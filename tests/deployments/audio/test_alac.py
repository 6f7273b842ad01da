"""ALAC, exact to the sample in CAF and MP4, whoever wrote it."""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from deployments.audio.caf_packets import PacketTable, find_packet_table
from deployments.audio.reading import SAMPLE_RATE, read_audio
from deployments.audio.report import AudioReport
from tests.support.media import run_ffmpeg

Pcm = npt.NDArray[np.int16]
FRAME = 4_096


def read(source: Path | bytes) -> tuple[Pcm, AudioReport]:
    report = AudioReport()
    return np.concatenate(list(read_audio(source, report=report))), report


def noise(n_samples: int) -> Pcm:
    rng = np.random.default_rng(n_samples)
    return rng.normal(0, 3_000, n_samples).clip(-32_000, 32_000).astype(np.int16)


def encode(pcm: Pcm, path: Path) -> Path:
    wav = path.with_suffix(".wav")
    soundfile.write(wav, pcm, SAMPLE_RATE)
    run_ffmpeg("-i", wav, "-c:a", "alac", path)
    return path


def caf_chunks(data: bytes) -> dict[bytes, bytes]:
    chunks, at = {}, 8
    while at < len(data):
        name, size = struct.unpack_from(">4sQ", data, at)
        chunks[name] = data[at + 12 : at + 12 + size]
        at += 12 + size
    return chunks


def join(chunks: list[tuple[bytes, bytes]]) -> bytes:
    packed = (name + struct.pack(">Q", len(body)) + body for name, body in chunks)
    return b"caff\0\1\0\0" + b"".join(packed)


def as_afconvert_writes(
    data: bytes, n_priming: int, n_valid: int, n_remainder: int, layout_tag: int = 0x640001
) -> bytes:
    """The same packets in Apple's order: the table before the samples, a free chunk to move in."""
    chunks = caf_chunks(data)
    n_packets = struct.unpack_from(">q", chunks[b"pakt"])[0]
    table = struct.pack(">qqii", n_packets, n_valid, n_priming, n_remainder)
    layout = struct.pack(">III", layout_tag, 0, 0)  # by default mono
    return join(
        [
            (b"desc", chunks[b"desc"]),
            (b"kuki", chunks[b"kuki"]),
            (b"chan", layout),
            (b"pakt", table + chunks[b"pakt"][24:]),
            (b"free", bytes(3_000)),
            (b"data", chunks[b"data"]),
        ]
    )


@pytest.mark.parametrize("n_samples", [5_000, 40_000, 10 * FRAME, 10 * FRAME + 1, 11 * FRAME - 1])
@pytest.mark.parametrize("kind", ["caf", "m4a", "apple"])
def test_every_sample(kind: str, n_samples: int, tmp_path: Path) -> None:
    pcm = noise(n_samples)
    path = encode(pcm, tmp_path / ("x.m4a" if kind == "m4a" else "x.caf"))
    data = path.read_bytes()
    if kind == "apple":
        data = as_afconvert_writes(data, 0, n_samples, -n_samples % FRAME)
    found, report = read(data)
    assert np.array_equal(found, pcm)
    assert report.warnings == []


def test_priming_and_the_end_that_the_table_tells(tmp_path: Path) -> None:
    """A piece cut out of a longer recording without encoding it again."""
    pcm = noise(10 * FRAME)
    data = encode(pcm, tmp_path / "x.caf").read_bytes()
    cut = as_afconvert_writes(data, 1_000, 10 * FRAME - 3_000, 2_000)
    found, report = read(cut)
    assert np.array_equal(found, pcm[1_000:-2_000])
    assert report.warnings == []


def test_a_number_of_frames_that_was_written_early(tmp_path: Path) -> None:
    pcm = noise(10 * FRAME + 500)
    data = as_afconvert_writes(
        encode(pcm, tmp_path / "x.caf").read_bytes(), 0, 3 * FRAME, FRAME - 500
    )
    found, report = read(data)
    assert np.array_equal(found, pcm)
    assert report.warnings == []


def test_padding_that_its_packet_does_not_tell_is_left_out(tmp_path: Path) -> None:
    """So much of it that a pipe does not hold it: the decoder ends nevertheless."""
    pcm = np.stack([noise(20 * FRAME)] * 8, axis=1)
    data = encode(pcm, tmp_path / "x.caf").read_bytes()
    whole, _ = read(data)
    found, report = read(as_afconvert_writes(data, 0, 8 * FRAME, 12 * FRAME, 0x80008))
    assert np.array_equal(found, whole[: 8 * FRAME])
    assert report.warnings == []


def test_fewer_packets_than_the_table_counts(tmp_path: Path) -> None:
    pcm = noise(20 * FRAME)
    data = as_afconvert_writes(encode(pcm, tmp_path / "x.caf").read_bytes(), 0, 20 * FRAME, 0)
    found, report = read(data[: len(data) * 6 // 10])
    assert 9 * FRAME < len(found) < 15 * FRAME
    assert np.array_equal(found[: 9 * FRAME], pcm[: 9 * FRAME])
    assert [warning.code for warning in report.warnings][-1] == "truncated"


def test_stereo(tmp_path: Path) -> None:
    pcm = np.stack([noise(40_000)] * 2, axis=1)
    found, _ = read(encode(pcm, tmp_path / "x.caf"))
    assert np.array_equal(found, pcm[:, 0])


class TestPacketTable:
    def test_of_alac_alone(self, tmp_path: Path) -> None:
        path = encode(noise(5_000), tmp_path / "x.caf")
        with path.open("rb") as file:
            assert find_packet_table(file) == PacketTable(0, 5_000)
        run_ffmpeg("-i", path, "-c:a", "pcm_s16be", tmp_path / "pcm.caf")
        with (tmp_path / "pcm.caf").open("rb") as file:
            assert find_packet_table(file) is None


def aac_in_caf(adts: bytes, n_valid: int, n_priming: int) -> bytes:
    """AAC packets as afconvert puts them into CAF, with the decoder's settings in a cookie."""
    packets, at = [], 0
    while at < len(adts):
        size = (adts[at + 3] & 3) << 11 | adts[at + 4] << 3 | adts[at + 5] >> 5
        packets.append(adts[at + 7 : at + size])
        at += size
    rate_index = adts[2] >> 2 & 15
    config = struct.pack(">H", 2 << 11 | rate_index << 7 | 1 << 3)

    def descriptor(tag: int, body: bytes) -> bytes:
        return bytes([tag, 0x80, 0x80, 0x80, len(body)]) + body

    decoder = bytes([0x40, 0x15]) + bytes(11) + descriptor(5, config)
    cookie = descriptor(3, bytes(3) + descriptor(4, decoder) + descriptor(6, b"\2"))
    sizes = b"".join(
        bytes([len(p) >> 7 | 0x80, len(p) & 0x7F]) if len(p) > 127 else bytes([len(p)])
        for p in packets
    )
    n_remainder = len(packets) * 1_024 - n_priming - n_valid
    table = struct.pack(">qqii", len(packets), n_valid, n_priming, n_remainder) + sizes
    desc = struct.pack(">d4s5I", SAMPLE_RATE, b"aac ", 0, 0, 1_024, 1, 0)
    data = bytes(4) + b"".join(packets)
    return join([(b"desc", desc), (b"kuki", cookie), (b"pakt", table), (b"data", data)])


def test_aac_in_caf_lies_where_it_does_in_mp4(tmp_path: Path) -> None:
    wav = tmp_path / "x.wav"
    t = np.arange(40_000) / SAMPLE_RATE
    pcm = (8_000 * np.sin(2 * np.pi * 40 * t * (1 + t)) * (t > 0.5)).astype(np.int16)
    soundfile.write(wav, pcm, SAMPLE_RATE)
    run_ffmpeg("-i", wav, "-c:a", "aac", "-b:a", "96k", tmp_path / "x.m4a")
    adts = run_ffmpeg("-i", tmp_path / "x.m4a", "-c:a", "copy", "-f", "adts", "-")
    in_mp4, _ = read(tmp_path / "x.m4a")
    in_caf, report = read(aac_in_caf(adts, 40_000, 1_024))
    assert report.warnings == []
    assert abs(len(in_caf) - 40_000) <= 1_024
    n = 38_000
    assert np.corrcoef(in_caf[:n], in_mp4[:n])[0, 1] > 0.999
