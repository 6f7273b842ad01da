"""Cuts: nothing lost, nothing doubled, never above the model's window, times kept."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.voice_network import FRAME_SAMPLES
from deployments.options import ChunkingOptions, VadOptions
from deployments.transcript.chunking import Chunker
from deployments.transcript.piece import Piece
from deployments.transcript.vad import Region
from engine import SAMPLE_RATE


class LoudnessProbabilities:
    """A frame is speech as far as its samples are not zero: ground truth for made-up audio."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.int16)

    def push(self, pcm: np.ndarray) -> np.ndarray:
        pcm = np.concatenate((self._rest, pcm))
        n_frames = len(pcm) // FRAME_SAMPLES
        self._rest = pcm[n_frames * FRAME_SAMPLES :]
        frames = pcm[: n_frames * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        return (frames != 0).mean(1).astype(np.float32)

    def finish(self) -> np.ndarray:
        rest, self._rest = self._rest, self._rest[:0]
        if not len(rest):
            return np.zeros(0, np.float32)
        return np.array([(rest != 0).sum() / FRAME_SAMPLES], np.float32)


def audio(spans: Sequence[tuple[bool, int]]) -> np.ndarray:
    """Frames of speech (loud; it does not repeat within a second) and of silence."""
    total = sum(n for _, n in spans) * FRAME_SAMPLES
    ramp = (np.arange(total) % 24_001 + 8_000) * np.where(np.arange(total) % 2, 1, -1)
    speech = np.repeat([is_speech for is_speech, _ in spans], [n * FRAME_SAMPLES for _, n in spans])
    return np.where(speech, ramp, 0).astype(np.int16)


def chunk(
    pcm: np.ndarray, options: ChunkingOptions | None = None, block: int = 40_000
) -> list[Piece]:
    chunker = Chunker(options, VadOptions(min_speech_s=0.0), LoudnessProbabilities())
    pieces = []
    for start in range(0, len(pcm), block):
        pieces += chunker.push(pcm[start : start + block])
    pieces += chunker.finish()
    assert chunker.n_samples == len(pcm)
    return pieces


def check(pcm: np.ndarray, pieces: list[Piece], options: ChunkingOptions) -> None:
    covered = np.zeros(len(pcm), np.int8)
    last_end = 0
    for piece in pieces:
        assert len(piece.pcm) <= 30 * SAMPLE_RATE
        assert len(piece.pcm) <= (options.max_chunk_s + 0.5) * SAMPLE_RATE
        parts = [pcm[span.start : span.end] for span in piece.spans]
        assert np.array_equal(piece.pcm, np.concatenate(parts))
        for span in piece.spans:
            assert span.start >= last_end and span.length > 0
            last_end = span.end
            covered[span.start : span.end] += 1
    assert covered.max(initial=0) <= 1, "audio is in two chunks"
    assert covered[pcm != 0].all(), "speech is in no chunk"


frames = st.integers(min_value=1, max_value=400)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(frames, frames), max_size=25),
    st.sampled_from([3.0, 10.0, 29.5]),
    st.sampled_from([0.0, 0.2, 0.8]),
    st.integers(min_value=1_000, max_value=90_000),
)
def test_every_sample_of_speech_is_in_exactly_one_chunk(
    lengths: list[tuple[int, int]], max_chunk_s: float, pad_s: float, block: int
) -> None:
    pcm = audio([part for speech, pause in lengths for part in ((True, speech), (False, pause))])
    options = ChunkingOptions(max_chunk_s, pad_before_s=pad_s / 2, pad_after_s=pad_s)
    check(pcm, chunk(pcm, options, block), options)


def test_blocks_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    pcm = audio([(index % 2 == 0, int(rng.integers(1, 200))) for index in range(80)])
    spans = [[piece.spans for piece in chunk(pcm, block=size)] for size in (999, 16_000, 10**7)]
    assert spans[0] == spans[1] == spans[2]


def test_silence_gives_no_chunk() -> None:
    assert chunk(np.zeros(60 * SAMPLE_RATE, np.int16)) == []
    assert chunk(np.zeros(0, np.int16)) == []


def test_speech_without_a_pause_is_cut_where_it_is_least_like_speech() -> None:
    pcm = audio([(True, 3_000)])  # 96 s
    quiet = 20 * SAMPLE_RATE
    pcm[quiet : quiet + 3_000 : 2] = 0  # half of the samples for 0.19 s: no pause yet
    pieces = chunk(pcm)
    check(pcm, pieces, ChunkingOptions())
    assert abs(pieces[0].spans[-1].end - (quiet + 1_500)) < 2 * FRAME_SAMPLES


def test_the_cut_goes_to_the_longest_pause_of_the_last_part() -> None:
    # 20 s, 0.6 s pause, 8 s, 0.2 s pause, 10 s: a full chunk would end at the short pause.
    pcm = audio([(True, 625), (False, 19), (True, 250), (False, 7), (True, 312)])
    pieces = chunk(pcm)
    assert len(pieces) == 2
    assert 625 * FRAME_SAMPLES < pieces[0].spans[-1].end < 644 * FRAME_SAMPLES


def test_chunks_are_packed_full() -> None:
    pcm = audio([part for _ in range(60) for part in ((True, 60), (False, 35))])  # 182 s
    pieces = chunk(pcm)
    assert len(pieces) <= 8
    assert np.mean([piece.duration_s for piece in pieces[:-1]]) > 25


def test_long_pauses_are_shortened_and_times_kept() -> None:
    pcm = audio([(True, 100), (False, 300), (True, 100)])  # 3.2 s, 9.6 s pause, 3.2 s
    (piece,) = chunk(pcm, ChunkingOptions(pad_before_s=0.4, pad_after_s=0.4))
    assert piece.duration_s == pytest.approx(3.2 + 0.8 + 3.2, abs=0.01)
    assert piece.file_time_s(1.0) == pytest.approx(1.0)
    assert piece.file_time_s(3.2 + 0.8) == pytest.approx(12.8, abs=0.001)
    # At the joint an end belongs to what was before, a start to what comes after.
    joint_s = piece.spans[0].length / SAMPLE_RATE
    assert piece.file_time_s(joint_s, is_end=True) == pytest.approx(3.6, abs=0.001)
    assert piece.file_time_s(joint_s) == pytest.approx(12.4, abs=0.001)
    assert piece.file_time_s(99.0) == pytest.approx(16.0, abs=0.001)
    assert piece.chunk_sample(piece.spans[1].start + 5) == piece.spans[0].length + 5


def test_tail_keeps_the_files_clock() -> None:
    pcm = audio([(True, 100), (False, 300), (True, 100)])
    (piece,) = chunk(pcm, ChunkingOptions(pad_before_s=0.4, pad_after_s=0.4))
    for start in (0, 1_000, piece.spans[0].length, piece.spans[0].length + 777):
        tail = piece.tail(start)
        parts = [pcm[span.start : span.end] for span in tail.spans]
        assert np.array_equal(tail.pcm, np.concatenate(parts))
        assert len(tail.pcm) == len(piece.pcm) - start
        assert tail.speech[-1] == piece.speech[-1]
    assert piece.tail(piece.spans[0].length).speech == piece.speech[1:]


def test_halves_are_the_whole() -> None:
    pcm = audio([(True, 100), (False, 30), (True, 150), (False, 20), (True, 200)])
    (piece,) = chunk(pcm)
    left, right = piece.halves()
    assert np.array_equal(np.concatenate([left.pcm, right.pcm]), piece.pcm)
    assert left.speech + right.speech == piece.speech, "the cut is in a pause"


def test_padding_never_overlaps_the_next_chunk() -> None:
    # Pauses of 0.19 s everywhere: half of one is less than the padding asked for.
    pcm = audio([part for _ in range(40) for part in ((True, 90), (False, 6))])
    pieces = chunk(pcm, ChunkingOptions(pad_before_s=0.4, pad_after_s=0.4))
    check(pcm, pieces, ChunkingOptions(pad_before_s=0.4, pad_after_s=0.4))
    gaps = [b.spans[0].start - a.spans[-1].end for a, b in zip(pieces, pieces[1:], strict=False)]
    assert set(gaps) <= {0}, "a short pause is shared out whole"


@pytest.mark.parametrize(
    "bad",
    [
        {"max_chunk_s": 31},
        {"pad_before_s": -1},
        {"pad_after_s": 2},
        {"max_pause_s": 0.1},
        {"cut_window": 0},
        {"max_silence_s": 1},
    ],
)
def test_bad_options_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ChunkingOptions(**bad)


def test_regions_are_regions() -> None:
    assert Region(3, 10).length == 7


def test_silence_sends_a_chunk_on_its_way_and_is_not_kept() -> None:
    chunker = Chunker(None, VadOptions(min_speech_s=0.0), LoudnessProbabilities())
    (piece,) = chunker.push(audio([(True, 100), (False, 400)]))  # 3.2 s, then 12.8 s
    assert piece.spans[0].end == 100 * FRAME_SAMPLES + round(0.8 * SAMPLE_RATE)
    for _ in range(20):
        assert list(chunker.push(np.zeros(30 * SAMPLE_RATE, np.int16))) == []
    assert len(chunker._buffer._pcm) < SAMPLE_RATE
    assert list(chunker.finish()) == []
