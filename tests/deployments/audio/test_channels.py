"""Channels that differ: whatever carries speech is heard, nothing cancels it or drowns it."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from deployments.audio.reading import SAMPLE_RATE, Samples, read_audio
from deployments.audio.report import AudioReport

Sound = npt.NDArray[np.float32]
QUIET = 1e-3
NOISES: dict[str, Callable[[npt.NDArray[np.float64], np.random.Generator], Sound]] = {
    "white": lambda t, rng: rng.normal(0, 1, len(t)),
    "hum": lambda t, _: sum(np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 12)),
    "music": lambda t, _: sum(
        np.sin(2 * np.pi * hz * t) * (1 + np.sign(np.sin(2 * np.pi * beat * t)))
        for hz, beat in ((220, 1.1), (277, 0.7), (330, 1.7))
    ),
    "at the pace of syllables": lambda t, rng: (
        rng.normal(0, 1, len(t)) * (1 + np.sin(2 * np.pi * 4 * t))
    ),
}


@pytest.fixture(scope="module")
def speech(clips: dict[str, npt.NDArray[np.int16]]) -> Sound:
    """Four clips with pauses, full scale at 1."""
    pause = np.zeros(SAMPLE_RATE // 2, np.int16)
    pieces = [piece for clip in list(clips.values())[:4] for piece in (pause, clip)]
    return np.concatenate([*pieces, pause]).astype(np.float32) / 32_768


@pytest.fixture(scope="module")
def talk(clips: dict[str, npt.NDArray[np.int16]]) -> tuple[Sound, Sound]:
    """Two who speak in turn, one clip each time, twice."""
    sides: tuple[list[Sound], list[Sound]] = ([], [])
    for index, clip in enumerate(list(clips.values())[:4]):
        turn = np.pad(clip.astype(np.float32) / 32_768, (4_000, 8_000))
        sides[index % 2].append(turn)
        sides[1 - index % 2].append(np.zeros_like(turn))
    return np.concatenate(sides[0]), np.concatenate(sides[1])


def mix(*channels: Sound, rate: int = SAMPLE_RATE) -> tuple[Sound, str]:
    """What is made of channels, and the words for it."""
    frames = np.stack(channels, axis=1).astype(np.float32)
    report = AudioReport()
    blocks = list(read_audio(Samples(frames, rate), report=report))
    assert report.info is not None
    return np.concatenate(blocks).astype(np.float32) / 32_768, report.info.channels


def noise_like(speech: Sound, kind: str, level_db: float) -> Sound:
    t = np.arange(len(speech)) / SAMPLE_RATE
    noise = np.asarray(NOISES[kind](t, np.random.default_rng(3)), np.float32)
    return noise * np.float32(rms(speech) * 10 ** (level_db / 20) / rms(noise))


def rms(sound: Sound) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def error_db(found: Sound, wanted: Sound) -> float:
    """What is not `wanted`, beside it, after the first half second: then it is known what is."""
    assert len(found) == len(wanted)
    start = SAMPLE_RATE // 2
    gain = float(np.dot(found[start:], wanted[start:]) / np.dot(wanted[start:], wanted[start:]))
    return 20 * np.log10(rms(found[start:] / gain - wanted[start:]) / rms(wanted[start:]) + 1e-9)


class TestOneSound:
    def test_stereo_is_the_mean_to_the_bit(self, speech: Sound) -> None:
        right = np.float32(0.7) * speech + noise_like(speech, "white", -20)
        found, words = mix(speech, right)
        mean = (speech.astype(np.float64) + right) / 2
        assert np.abs(found - mean).max() <= 0.6 / 32_768
        assert words == "mean of 2"

    @pytest.mark.parametrize("gain", [1.0, 0.5])
    def test_inverted_is_turned_round(self, gain: float, speech: Sound) -> None:
        found, words = mix(speech, -np.float32(gain) * speech)
        assert error_db(found, speech) < -60
        assert rms(found) == pytest.approx(rms(speech) * (1 + gain) / 2, rel=0.01)
        assert words == "mean of 2, 2 inverted"

    def test_inverted_from_the_middle_on(self, speech: Sound) -> None:
        """As where two recordings were joined."""
        twice = np.concatenate([speech, speech])
        found, words = mix(twice, np.concatenate([speech, -speech]))
        assert error_db(found[: len(speech)], speech) < -60
        later = slice(len(speech) + 2 * SAMPLE_RATE, None)
        assert error_db(np.abs(found[later]), np.abs(twice[later])) < -40
        assert words == "those of 2 with speech"

    def test_a_pause_before_the_speech(self, speech: Sound) -> None:
        """Each microphone has hiss of its own; nothing is decided by it."""
        rng = np.random.default_rng(0)
        lead = np.concatenate([np.zeros(5 * SAMPLE_RATE, np.float32), speech])
        hiss = [rng.normal(0, 3e-4, len(lead)).astype(np.float32) for _ in range(2)]
        found, words = mix(lead + hiss[0], lead + hiss[1])
        assert error_db(found, lead) < -30
        assert words == "mean of 2"


class TestSpeechBesideNoise:
    @pytest.mark.parametrize("kind", NOISES)
    @pytest.mark.parametrize("level_db", [-5, 10, 25])
    @pytest.mark.parametrize("place", [0, 1])
    def test_the_channel_with_speech_is_taken(
        self, place: int, level_db: float, kind: str, speech: Sound
    ) -> None:
        channels = [0.3 * speech, 0.3 * noise_like(speech, kind, level_db)]
        if place:
            channels.reverse()
        found, words = mix(*channels)
        assert error_db(found, speech) < -40
        assert rms(found) > 0.29 * rms(speech)
        assert words == f"channel {place + 1} of 2"

    @pytest.mark.parametrize("floor", [0.0, 1e-3])
    def test_one_of_16(self, floor: float, speech: Sound) -> None:
        rng = np.random.default_rng(1)
        channels = [rng.normal(0, 1, len(speech)).astype(np.float32) * floor for _ in range(16)]
        channels[11] = 0.2 * speech
        found, words = mix(*channels)
        assert error_db(found, speech) < -30
        assert rms(found) == pytest.approx(0.2 * rms(speech), rel=0.02)
        assert words == "channel 12 of 16"

    def test_the_centre_of_5_1(self, speech: Sound) -> None:
        music, hum = noise_like(speech, "music", 0), noise_like(speech, "hum", -5)
        around = [noise_like(speech, "white", -12), np.roll(music, 999)]
        found, words = mix(music, np.roll(music, 300), speech, hum, *around)
        assert error_db(found, speech) < -40
        assert words == "channel 3 of 6"

    def test_at_another_rate_in_any_blocks(self, speech: Sound) -> None:
        """The hops of the mixer lie across the blocks that are read: 64 channels are 4,096 frames,
        85 ms at 48 kHz."""
        rate = 3 * SAMPLE_RATE
        speech = speech[: 6 * SAMPLE_RATE]
        fast = np.interp(np.arange(3 * len(speech)) / 3, np.arange(len(speech)), speech)
        channels = [np.zeros(len(fast), np.float32) for _ in range(64)]
        channels[5] = fast.astype(np.float32)
        channels[40] = (
            3
            * np.float32(rms(speech))
            * np.random.default_rng(2).normal(0, 1, len(fast)).astype(np.float32)
        )
        found, words = mix(*channels, rate=rate)
        assert error_db(found, speech) < -20  # the interpolation's own is -25
        assert words == "channel 6 of 64"


class TestTwoSpeakers:
    @pytest.mark.parametrize("floor", [0.0, QUIET])
    @pytest.mark.parametrize("gain", [1.0, 0.1])
    def test_both_are_kept(self, gain: float, floor: float, talk: tuple[Sound, Sound]) -> None:
        rng = np.random.default_rng(4)
        agent, customer = talk[0], np.float32(gain) * talk[1]
        hiss = [rng.normal(0, 1, len(agent)).astype(np.float32) * floor * gain for _ in range(2)]
        found, words = mix(agent + hiss[0], customer + hiss[1])
        for side in (agent, customer):
            speaks = np.repeat(np.abs(side).reshape(-1, 160).max(axis=1) > 0.05 * gain, 160)
            speaks[: SAMPLE_RATE // 2] = False
            level = rms(found[speaks]) / rms(side[speaks])
            assert 0.45 < level < 1.1, "in full, or as half of a mean"
            assert np.corrcoef(found[speaks], side[speaks])[0, 1] > 0.9
        assert words == "those of 2 with speech"

    def test_at_once(self, speech: Sound, talk: tuple[Sound, Sound]) -> None:
        n = min(len(speech), len(talk[0]))
        one, two = talk[0][:n], np.roll(talk[0], 2 * SAMPLE_RATE + 77)[:n]
        found, _ = mix(one, two)
        for side, other in ((one, two), (two, one)):
            alone = np.repeat(
                (np.abs(side[: n // 160 * 160]).reshape(-1, 160).max(axis=1) > 0.05)
                & (np.abs(other[: n // 160 * 160]).reshape(-1, 160).max(axis=1) > 0.05),
                160,
            )
            both = found[: n // 160 * 160][alone]
            assert np.corrcoef(both, side[: n // 160 * 160][alone])[0, 1] > 0.3


def test_no_channel_with_speech_gives_the_mean(speech: Sound) -> None:
    hum, white = noise_like(speech, "hum", 0), noise_like(speech, "white", 0)
    found, words = mix(hum, white)
    assert error_db(found, (hum + white) / 2) < -60
    assert words == "mean of 2"


def test_memory_does_not_grow_with_the_file(speech: Sound) -> None:
    frames = np.stack([np.tile(speech, 12), np.tile(noise_like(speech, "white", 6), 12)], axis=1)
    tracemalloc.start()
    try:
        n = sum(len(block) for block in read_audio(Samples(frames, SAMPLE_RATE), block_s=1.0))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == len(frames)
    assert peak_bytes < 24 * 1024**2
