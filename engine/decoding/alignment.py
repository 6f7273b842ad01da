"""When each word of a chunk was said, from how the decoder's attention follows the audio.

openai/whisper (`timing.find_alignment`) finds the monotonic path through all frames along which
tokens attend most. Such a path must give every frame to a token, so pauses and the silence of the
padding go to the words beside them. Here the path runs through frames of speech only: those in
which voice was found and that are not far softer than the rest; where the text has timestamps,
those near a segment. The edges of words then move to pauses that they nearly touch.
docs/decisions.md says what each rule brought.

Frames are 20 ms. Times are seconds from the chunk's first sample.
"""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from engine.config import N_SAMPLES, SAMPLE_RATE, TIME_PRECISION_S
from engine.request import Segment

Frames = npt.NDArray[np.int64]
_FRAME = round(TIME_PRECISION_S * SAMPLE_RATE)
_HALF_FRAME = _FRAME // 2
_SOFT_DB = 45.0
"""Frames that are softer than the loud ones by more than this are pauses."""
_LOUD_PERCENTILE = 90
_REACH_S = 0.5
"""Frames further from every segment than this belong to speech without text."""
_PAUSE = 4
_SHORT_PAUSE = 2
_NEAR = 5
"""An edge of a word moves to a pause of `_PAUSE` frames inside the word, and to one of
`_SHORT_PAUSE` if no more than `_NEAR` frames lie between them."""


SegmentTimes = tuple[float | None, float | None]
"""When a segment begins and ends, as far as the model said so."""


def segment_times(segments: Sequence[Segment], timestamp_begin: int) -> list[SegmentTimes]:
    """The times of a chunk's segments, for `speech_frames`."""
    return [
        (segment.start_s if segment.tokens[0] >= timestamp_begin else None, segment.end_s)
        for segment in segments
    ]


def speech_frames(
    pcm: npt.NDArray[np.int16],
    speech: Sequence[tuple[int, int]],
    segments: Sequence[SegmentTimes],
    n_tokens: int,
) -> Frames:
    """The frames among which words are looked for, in order; at least one for each token, if the
    chunk is that long.

    Args:
        speech: samples in which voice was found, (first, last + 1) each; empty: all.
    """
    n_frames = min(-(-len(pcm) // _FRAME), N_SAMPLES // _FRAME)
    found = np.arange(n_frames)
    for keep in (_voiced(n_frames, speech), _loud(pcm, n_frames), _told(n_frames, segments)):
        fewer = found[keep[found]] if keep is not None else found
        found = fewer if len(fewer) > n_tokens else found
    return found


def word_frames(
    attention: npt.NDArray[np.float32], frames: Frames, word_lengths: Sequence[int]
) -> list[tuple[int, int]]:
    """The first frame of each word, and the one after its last.

    Args:
        attention: of each token to each of `frames`, (n_tokens, len(frames)).
        word_lengths: number of tokens of each word.
    """
    first = first_frames(attention)
    begins = np.cumsum([0, *word_lengths[:-1]])
    edges = np.append(first[begins], len(frames))
    edges[0] = 0
    _move_to_pauses(edges, frames)
    times = []
    for begin, end in zip(edges, edges[1:], strict=False):
        begin = min(begin, len(frames) - 1)
        times.append((int(frames[begin]), int(frames[max(begin, min(end, len(frames)) - 1)]) + 1))
    return times


def first_frames(gain: npt.NDArray[np.floating]) -> Frames:
    """The frame at which each token begins, on the path of the largest sum of gains through all
    frames. Every token has a frame, unless there are fewer frames than tokens.

    A token that begins at frame k and is still at frame j has gained S[j + 1] - S[k], with S the
    running sum of its row. So the best k for each j is a running maximum, and a row is a handful of
    operations on vectors.

    Args:
        gain: (n_tokens, n_frames).
    """
    n_tokens, n_frames = gain.shape
    shares = n_frames < n_tokens
    sums = np.concatenate([np.zeros((n_tokens, 1)), np.cumsum(gain, 1, dtype=np.float64)], 1)
    places = np.arange(n_frames)
    begins = np.zeros((n_tokens, n_frames), np.int64)
    joins = np.zeros((n_tokens, n_frames), bool)
    best = np.full(n_frames, -np.inf)
    for token in range(n_tokens):
        entry = np.append(0.0 if token == 0 else -np.inf, best[:-1])
        if token == 0:
            entry[1:] = -np.inf
        elif shares:
            joins[token], entry = best > entry, np.maximum(best, entry)
        value = entry - sums[token, :-1]
        reached = np.maximum.accumulate(value)
        begins[token] = np.maximum.accumulate(np.where(value >= reached, places, 0))
        best = sums[token, 1:] + reached
    first, at = np.zeros(n_tokens, np.int64), n_frames - 1
    for token in reversed(range(n_tokens)):
        first[token] = begins[token, at]
        at = first[token] if joins[token, first[token]] else first[token] - 1
    return first


def _voiced(n_frames: int, speech: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_] | None:
    if not speech:
        return None
    keep = np.zeros(n_frames, bool)
    for start, stop in speech:
        keep[start // _FRAME : -(-stop // _FRAME)] = True
    return keep


def _loud(pcm: npt.NDArray[np.int16], n_frames: int) -> npt.NDArray[np.bool_]:
    """Frames of which a half is not soft."""
    samples = np.zeros(n_frames * _FRAME)
    samples[: len(pcm)] = pcm[: len(samples)]
    power = np.square(samples.reshape(n_frames, 2, _HALF_FRAME)).mean(2).max(1)
    level = 10 * np.log10(power + 1e-9)
    heard: npt.NDArray[np.bool_] = level > np.percentile(level, _LOUD_PERCENTILE) - _SOFT_DB
    return heard


def _told(n_frames: int, segments: Sequence[SegmentTimes]) -> npt.NDArray[np.bool_]:
    """Frames near a segment."""
    keep = np.zeros(n_frames, bool)
    for (start_s, end_s), following in zip_longest(segments, segments[1:]):
        if end_s is None and following is not None:
            end_s, _ = following
        start = 0 if start_s is None else max(0.0, start_s - _REACH_S)
        stop = None if end_s is None else int((end_s + _REACH_S) / TIME_PRECISION_S)
        keep[int(start / TIME_PRECISION_S) : stop] = True
    return keep


def _move_to_pauses(edges: Frames, frames: Frames) -> None:
    """Where a pause lies inside a word, move the nearer edge of the word to it, so that the word is
    on the side on which most of it was."""
    pauses = np.diff(frames) - 1
    for at in np.flatnonzero(pauses >= _SHORT_PAUSE) + 1:
        word = int(np.searchsorted(edges, at, "right")) - 1
        if word < 0 or word >= len(edges) - 1 or edges[word] == at:
            continue
        before, behind = at - edges[word], edges[word + 1] - at
        if pauses[at - 1] < _PAUSE and min(before, behind) > _NEAR:
            continue
        if before >= behind and word + 1 < len(edges) - 1:
            edges[word + 1] = at
        elif before < behind and word > 0:
            edges[word] = at
