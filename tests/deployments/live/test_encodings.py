"""Bytes of live audio, however they are divided, are the samples that they are as a whole."""

import io

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import OptionError
from deployments.live.formats import AudioDecoder, AudioFormat
from deployments.live.options import LiveOptions

RNG = np.random.default_rng(1)
TONE = (8_000 * np.sin(np.arange(24_000) / 20)).astype(np.int16)


def decoded(decoder: AudioDecoder, data: bytes, cuts: list[int]) -> np.ndarray:
    edges = [0, *sorted(cuts), len(data)]
    parts = [decoder.push(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    return np.concatenate([*parts, decoder.flush()])


@given(cuts=st.lists(st.integers(0, 2 * len(TONE)), max_size=8))
def test_cuts_change_no_sample(cuts: list[int]) -> None:
    data = TONE.astype("<i2").tobytes()
    whole = decoded(AudioDecoder(AudioFormat()), data, [])
    in_pieces = decoded(AudioDecoder(AudioFormat()), data, cuts)
    # What is rounded to 16 bits is dithered.
    assert np.abs(in_pieces.astype(int) - whole.astype(int)).max() <= 2
    assert len(whole) == len(TONE) * 2 // 3
    expected = soxr.resample(TONE, 24_000, 16_000)
    assert np.abs(whole.astype(int) - expected.astype(int)).max() <= 2
    plain = decoded(AudioDecoder(AudioFormat("pcm16", 16_000)), data, cuts)
    assert np.array_equal(plain, TONE)


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_the_two_laws(encoding: str, subtype: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, TONE, 8_000, subtype=subtype, format="RAW")
    decoder = AudioDecoder(AudioFormat(encoding, 16_000))  # type: ignore[arg-type]
    found = decoded(decoder, file.getvalue(), [1, 777])
    assert len(found) == len(TONE)
    assert np.abs(found.astype(int) - TONE.astype(int)).max() < 300
    resampled = decoded(AudioDecoder(AudioFormat(encoding, 8_000)), file.getvalue(), [])  # type: ignore[arg-type]
    assert len(resampled) == 2 * len(TONE)


def test_a_stream_goes_on_behind_a_flush() -> None:
    decoder = AudioDecoder(AudioFormat())
    data = TONE.astype("<i2").tobytes()
    parts = [decoder.push(data), decoder.flush(), decoder.push(data), decoder.flush()]
    assert sum(map(len, parts)) == 2 * len(TONE) * 2 // 3


def test_rates_have_bounds() -> None:
    for rate in (7_999, 200_000):
        with pytest.raises(ValueError, match="rate must be"):
            AudioFormat("pcm16", rate)
        with pytest.raises(OptionError, match="rate must be"):
            LiveOptions(rate=rate)
