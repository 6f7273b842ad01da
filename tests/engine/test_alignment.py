"""When words were said: the path through frames, and edges of words at pauses."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.decoding.alignment import (
    first_frames,
    segment_times,
    speech_frames,
    word_frames,
)
from engine.request import Segment

RATE = 16_000
BEGIN = 100
ALL = [(None, None)]


def tone(seconds: float, level: float = 8_000.0) -> np.ndarray:
    n = round(seconds * RATE)
    return (level * np.sin(2 * np.pi * 220 * np.arange(n) / RATE)).astype(np.int16)


def best_path(gain: np.ndarray) -> float:
    """The largest sum, by trying all paths on which every token has a frame."""
    n_tokens, n_frames = gain.shape
    sums = []
    for starts in combinations(range(1, n_frames), n_tokens - 1):
        edges = (0, *starts, n_frames)
        sums.append(sum(gain[t, edges[t] : edges[t + 1]].sum() for t in range(n_tokens)))
    return max(sums)


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 10_000))
def test_the_path_has_the_largest_sum(n_tokens: int, more: int, seed: int) -> None:
    gain = np.random.default_rng(seed).normal(size=(n_tokens, n_tokens + more))
    first = first_frames(gain)
    assert first[0] == 0 and (np.diff(first) > 0).all()
    edges = [*first, gain.shape[1]]
    found = sum(gain[t, edges[t] : edges[t + 1]].sum() for t in range(n_tokens))
    assert found == pytest.approx(best_path(gain))


def test_more_tokens_than_frames_share_them() -> None:
    first = first_frames(np.zeros((7, 3)))
    assert first[0] == 0 and first[-1] <= 2 and (np.diff(first) >= 0).all()


def test_frames_are_those_with_voice_that_are_not_soft() -> None:
    pause = np.zeros(RATE, np.int16)
    pcm = np.concatenate([tone(0.5), pause, tone(0.5), tone(0.5, 8.0), tone(0.5)])
    frames = speech_frames(pcm, (), ALL, 3)
    assert frames.tolist() == [*range(25), *range(75, 100), *range(125, 150)]
    voiced = speech_frames(pcm, [(0, 4_000), (40_000, 48_000)], ALL, 3)
    assert voiced.tolist() == [*range(13), *range(125, 150)]


def test_noise_has_no_pauses() -> None:
    pcm = np.random.default_rng(1).normal(0, 500, RATE).astype(np.int16)
    assert len(speech_frames(pcm, (), ALL, 3)) == 50


def test_where_there_are_too_few_frames_all_count() -> None:
    pcm = np.concatenate([tone(0.04), np.zeros(RATE, np.int16)])
    assert len(speech_frames(pcm, (), ALL, 3)) == 52
    assert len(speech_frames(tone(0.01), (), ALL, 3)) == 1


def test_speech_far_from_every_segment_has_no_words() -> None:
    segments = [(0.0, 1.0), (4.0, 5.0)]
    frames = speech_frames(tone(8.0), (), segments, 2)
    assert frames.tolist() == [*range(75), *range(175, 275)]
    open_end = speech_frames(tone(8.0), (), [(4.0, None)], 1)
    assert open_end.tolist() == list(range(175, 400))


@pytest.mark.parametrize(
    ("edge", "expected"),
    [(50, 50), (52, 50), (60, 50), (45, 50)],
    ids=["at it", "late", "much later", "early"],
)
def test_edges_move_to_a_pause(edge: int, expected: int) -> None:
    """Two words of 50 frames, with 20 frames of pause between them."""
    frames = np.array([*range(50), *range(70, 120)])
    attention = np.zeros((2, 100), np.float32)
    attention[0, :edge], attention[1, edge:] = 1, 1
    spans = word_frames(attention, frames, [1, 1])
    assert spans == [(0, expected), (70, 120)]


def test_a_short_pause_far_from_the_edges_stays_inside_a_word() -> None:
    """As before a stop consonant."""
    frames = np.array([*range(30), *range(33, 63)])
    attention = np.zeros((2, 60), np.float32)
    attention[0, :45], attention[1, 45:] = 1, 1
    spans = word_frames(attention, frames, [1, 1])
    assert spans == [(0, 48), (48, 63)]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.integers(0, 1_000))
def test_words_are_in_order_and_never_without_length(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    n_tokens = sum(lengths)
    frames = np.flatnonzero(random.random(60) < 0.7)
    attention = random.random((n_tokens, len(frames))).astype(np.float32)
    spans = word_frames(attention, frames, lengths)
    assert len(spans) == len(lengths)
    assert all(start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_times_are_those_which_the_model_gave() -> None:
    segments = [
        Segment(0.0, 2.0, " a b", (1, 2, BEGIN + 100)),
        Segment(2.0, None, " c", (BEGIN + 100, 3)),
    ]
    assert segment_times(segments, BEGIN) == [(None, 2.0), (2.0, None)]
