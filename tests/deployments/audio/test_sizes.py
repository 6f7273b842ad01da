"""Headers whose size is not the truth: all samples are read, and nothing that is none."""

import io
import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from deployments.audio.reading import SAMPLE_RATE, read_audio
from deployments.audio.report import AudioReport
from tests.support.media import run_ffmpeg

Pcm = npt.NDArray[np.int16]
N = 48_000
LAYOUTS = [
    (layout, subtype)
    for layout, subtypes in {
        "WAV": ("PCM_16", "PCM_U8", "PCM_24", "FLOAT", "ULAW"),
        "RF64": ("PCM_16",),
        "W64": ("PCM_16", "PCM_24"),
        "AIFF": ("PCM_16", "PCM_24"),
        "AU": ("PCM_16", "ULAW"),
        "CAF": ("PCM_16", "FLOAT"),
    }.items()
    for subtype in subtypes
]


@pytest.fixture(scope="module")
def noise() -> Pcm:
    return np.random.default_rng(7).normal(0, 6_000, N).clip(-32_000, 32_000).astype(np.int16)


def write(pcm: Pcm, layout: str = "WAV", subtype: str = "PCM_16", rate: int = SAMPLE_RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate, format=layout, subtype=subtype)
    return buffer.getvalue()


def read(source: bytes | Path) -> tuple[Pcm, AudioReport]:
    report = AudioReport()
    blocks = list(read_audio(source, report=report))
    return np.concatenate(blocks), report


def with_size(data: bytes, layout: str, change: Callable[[int], int]) -> bytes:
    """The same file with another size of its samples in the header."""
    at, form = {
        "WAV": (data.find(b"data") + 4, "<I"),
        "RF64": (12 + 8 + 8, "<Q"),
        "W64": (data.find(b"data\xf3\xac") + 16, "<Q"),
        "AIFF": (data.find(b"SSND") + 4, ">I"),
        "AU": (8, ">I"),
        "CAF": (data.find(b"data") + 4, ">Q"),
    }[layout]
    changed = bytearray(data)
    (size,) = struct.unpack_from(form, data, at)
    struct.pack_into(form, changed, at, change(size))
    return bytes(changed)


def chunk(name: bytes, body: bytes, order: str = "<") -> bytes:
    return name + struct.pack(order + "I", len(body)) + body + b"\0" * (len(body) % 2)


TRAILERS = {
    "LIST": chunk(b"LIST", b"INFOISFT\x0e\0\0\0Lavf61.1.100\0\0"),
    "id3": chunk(b"id3 ", b"ID3\x04\0\0\0\0\0\x0a" + bytes(range(200, 210)) * 40),
    "odd LIST, cue, bext": chunk(b"LIST", b"abc" * 301)
    + chunk(b"cue ", bytes(28))
    + chunk(b"bext", b"\xaa" * 602),
    "PAD, JUNK": chunk(b"PAD ", b"\x55" * 4_000) + chunk(b"JUNK", b"\xaa" * 2_000),
    "unpadded": b"LIST" + struct.pack("<I", 5) + b"abcde" + chunk(b"cue ", b"\xf0" * 30),
    "unknown to the end": chunk(b"xyz1", b"\x7e\x80" * 5_000),
    "cut chunk": b"id3 " + struct.pack("<I", 90_000) + b"\x80\x7f" * 3_000,
    "ID3v1": b"TAG" + b"\xff" * 125,
    "APE": b"APETAGEX"
    + struct.pack("<IIII8x", 2_000, 2_000, 1, 0xA0000000)
    + b"\x99" * 1_968
    + b"APETAGEX"
    + struct.pack("<IIII8x", 2_000, 2_000, 1, 0x80000000),
    "zeros": bytes(4_096),
    "text": b"recorded by the machine in room 4\n" * 100,
}


class TestTooSmall:
    @pytest.mark.parametrize(("layout", "subtype"), LAYOUTS)
    def test_a_size_written_early(self, layout: str, subtype: str, noise: Pcm) -> None:
        data = write(noise, layout, subtype)
        whole, _ = read(data)
        assert len(whole) == N
        found, report = read(with_size(data, layout, lambda size: size // 30 * 8))
        assert np.array_equal(found, whole)
        assert report.warnings == []

    @pytest.mark.parametrize("trailer", TRAILERS)
    def test_what_follows_all_samples_is_no_sound(self, trailer: str, noise: Pcm) -> None:
        data = write(noise)
        for shown in (data, with_size(data, "WAV", lambda _: 30_000)):
            is_open_ended = trailer in ("zeros", "text", "unknown to the end", "cut chunk")
            if shown is not data and is_open_ended:
                continue  # nothing tells them from samples
            found, report = read(shown + TRAILERS[trailer])
            assert np.array_equal(found, noise), len(found)
            assert report.warnings == []

    @pytest.mark.parametrize("trailer", ["LIST", "odd LIST, cue, bext", "ID3v1", "APE"])
    def test_a_size_left_open(self, trailer: str, noise: Pcm) -> None:
        data = with_size(write(noise), "WAV", lambda _: 0xFFFFFFFF)
        found, _ = read(data + TRAILERS[trailer])
        assert np.array_equal(found, noise)

    def test_aiff_and_w64_have_chunks_behind_the_samples_too(self, noise: Pcm) -> None:
        aiff = write(noise, "AIFF")
        trailer = chunk(b"ID3 ", b"\x99" * 901, ">") + chunk(b"COMT", b"\x77" * 50, ">")
        w64 = write(noise, "W64")
        tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
        list_chunk = b"LIST" + tail + struct.pack("<Q", 24 + 1_000) + b"\x99" * 1_000
        for data, layout, more in ((aiff, "AIFF", trailer), (w64, "W64", list_chunk)):
            for shown in (data, with_size(data, layout, lambda size: size // 2 // 8 * 8)):
                assert np.array_equal(read(shown + more)[0], noise), layout

    def test_samples_in_a_second_chunk_of_them(self, noise: Pcm) -> None:
        data = write(noise[:20_000]) + chunk(b"LIST", b"odd")
        found, _ = read(data + chunk(b"data", noise[20_000:].tobytes()))
        assert np.array_equal(found, noise)
        more = bytes(8) + noise[20_000:].astype(">i2").tobytes()
        found, _ = read(write(noise[:20_000], "AIFF") + chunk(b"SSND", more, ">"))
        assert np.array_equal(found, noise)

    def test_coded_samples(self, noise: Pcm, tmp_path: Path) -> None:
        path = tmp_path / "x.wav"
        soundfile.write(path, noise, SAMPLE_RATE)
        run_ffmpeg("-i", path, "-c:a", "adpcm_ima_wav", tmp_path / "adpcm.wav")
        data = (tmp_path / "adpcm.wav").read_bytes()
        whole, _ = read(data)
        short = with_size(data, "WAV", lambda size: size // 4_096 * 1_024)
        assert np.array_equal(read(short)[0], whole)
        assert len(whole) >= N

    def test_wrapped_at_4_gib(self, tmp_path: Path) -> None:
        """Sparse: 5.1 at 48 kHz, with sound before and behind the end that the header tells."""
        rate, n_channels = 48_000, 6
        path = tmp_path / "long.wav"
        n_bytes = 2**32 + 12 * rate * 5
        n_bytes -= n_bytes % (2 * n_channels)
        burst = np.repeat(np.random.default_rng(1).normal(0, 5_000, 2 * rate), n_channels)
        sound = burst.astype("<i2").tobytes()
        fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 6, rate, 12 * rate, 12, 16)
        with path.open("wb") as file:
            file.write(struct.pack("<4sI4s", b"RIFF", (n_bytes + 36) % 2**32, b"WAVE") + fmt)
            file.write(struct.pack("<4sI", b"data", n_bytes % 2**32))
            file.seek(44 + n_bytes - len(sound))
            file.write(sound)
            file.write(TRAILERS["LIST"])
        declared_s: list[float | None] = []
        blocks = read_audio(path, on_open=declared_s.append)
        next(blocks)
        blocks.close()
        assert declared_s == [pytest.approx(n_bytes / 12 / rate, abs=1e-3)]

    def test_some_lost_bytes_are_no_sound(self, noise: Pcm) -> None:
        assert np.array_equal(read(write(noise) + b"\x99" * 100)[0], noise)


class TestJoined:
    @pytest.mark.parametrize("layout", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
    def test_both_are_read_and_no_header_clicks(self, layout: str, noise: Pcm) -> None:
        one, two = write(noise[:17_001], layout), write(noise[17_001:], layout)
        assert np.array_equal(read(one + two)[0], noise)

    def test_with_chunks_between_them(self, noise: Pcm) -> None:
        parts = [noise[:10_000], noise[10_000:30_001], noise[30_001:]]
        files = [write(part) + TRAILERS["odd LIST, cue, bext"] for part in parts]
        assert np.array_equal(read(b"".join(files))[0], noise)

    def test_in_a_file_that_is_open_with_a_buffer(self, noise: Pcm, tmp_path: Path) -> None:
        one, two = write(noise[:20_000]), write(noise[20_000:])
        path = tmp_path / "x.wav"
        path.write_bytes(with_size(one, "WAV", lambda _: 0xFFFFFFFF) + two)
        with path.open("rb") as file:
            assert np.array_equal(np.concatenate(list(read_audio(file))), noise)
            assert file.closed

    @pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 12_000])
    def test_behind_a_size_that_is_open_or_small(self, size: int, noise: Pcm) -> None:
        one, two = write(noise[:20_000]), write(noise[20_000:])
        assert np.array_equal(read(with_size(one, "WAV", lambda _: size) + two)[0], noise)

    @pytest.mark.parametrize("order", [0, 1])
    def test_of_another_format(self, order: int) -> None:
        """At the higher rate of the two: neither loses its treble."""
        tones = [
            (0.5 * np.sin(2 * np.pi * hz * np.arange(2 * rate) / rate), rate, n_channels)
            for hz, rate, n_channels in ((1_000, 8_000, 2), (5_000, 44_100, 1))
        ]
        if order:
            tones.reverse()
        data = b"".join(
            write(np.stack([tone] * n, axis=1), "WAV", subtype, rate)
            for (tone, rate, n), subtype in zip(tones, ("ULAW", "PCM_24"), strict=True)
        )
        found, report = read(data)
        assert len(found) == pytest.approx(4 * SAMPLE_RATE, abs=16)
        halves = [found[1_000:31_000], found[33_000:63_000]]
        peaks = [np.argmax(np.abs(np.fft.rfft(half))) * SAMPLE_RATE / 30_000 for half in halves]
        assert peaks == pytest.approx([5_000, 1_000] if order else [1_000, 5_000], abs=1)
        assert report.warnings == []

    def test_what_cannot_be_read_behind_it_is_told(self, noise: Pcm, tmp_path: Path) -> None:
        path = tmp_path / "x.wav"
        soundfile.write(path, noise, SAMPLE_RATE)
        run_ffmpeg("-i", path, "-c:a", "adpcm_ima_wav", tmp_path / "adpcm.wav")
        found, report = read(write(noise) + (tmp_path / "adpcm.wav").read_bytes())
        assert np.array_equal(found, noise)
        assert [warning.code for warning in report.warnings] == ["damaged"]
        assert "second file" in report.warnings[0].message

    def test_cut_in_the_second(self, noise: Pcm) -> None:
        data = write(noise[:20_000]) + write(noise[20_000:])
        found, report = read(data[: -2 * 10_000])
        assert np.array_equal(found, noise[:-10_000])
        (warning,) = report.warnings
        assert warning.code == "truncated"
        assert warning.end_s == pytest.approx(N / SAMPLE_RATE, abs=0.01)


def test_no_samples_are_taken_for_chunks(noise: Pcm) -> None:
    """Sound that has the names of chunks in it, at the promised end and elsewhere."""
    names = [b"LIST", b"data", b"id3 ", b"RIFF", b"TAG", b"ID3\x04", b"FORM", b"caff", b".snd"]
    pcm = noise.copy().view(np.uint8)
    for at, name in zip(itertools.count(20_001, 3_333), names, strict=False):
        pcm[at : at + len(name)] = np.frombuffer(name, np.uint8)
    sound = pcm.view(np.int16)
    data = write(sound)
    assert np.array_equal(read(data)[0], sound)
    assert np.array_equal(read(with_size(data, "WAV", lambda _: 16_000))[0], sound)
