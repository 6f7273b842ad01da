"""When each word of a chunk was said, from how the decoder's attention follows the audio.

openai/whisper (`timing.find_alignment`) finds the monotonic path through all frames along which
tokens attend most. Such a path must give every frame to a token, so pauses and the silence of the
padding go to the words beside them. Here the path runs through frames of speech only: those in
which voice was found and that are not far softer than the rest. Where the text has timestamps, a
segment's words stay near them. The edges of words then move to pauses that they nearly touch.
docs/decisions.md says what each rule brought.

Frames are 20 ms. Times are seconds from the chunk's first sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
_MARGIN_S = 0.3
_MARGIN_COST = 1.0
"""What a token pays for each frame that is further from its segment than the margin: all that the
frame could gain."""
_PAUSE = 4
_SHORT_PAUSE = 2
_NEAR = 5
"""An edge of a word moves to a pause of `_PAUSE` frames inside the word, and to one of
`_SHORT_PAUSE` if no more than `_NEAR` frames lie between them."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A segment of a chunk's text: its number of tokens, without timestamps, and its times, as far
    as the model gave them."""

    n_tokens: int
    start_s: float | None
    end_s: float | None


def text_parts(segments: Sequence[Segment], timestamp_begin: int) -> list[TextPart]:
    """The segments of a chunk's text, for `speech_frames` and `word_frames`."""
    parts = []
    for segment in segments:
        n_tokens = sum(token < timestamp_begin for token in segment.tokens)
        has_start = segment.tokens[0] >= timestamp_begin
        parts.append(TextPart(n_tokens, segment.start_s if has_start else None, segment.end_s))
    return parts


def speech_frames(
    pcm: npt.NDArray[np.int16], speech: Sequence[tuple[int, int]], parts: Sequence[TextPart]
) -> Frames:
    """The frames among which words are looked for, in order; at least one for each token, if the
    chunk is that long.

    Args:
        speech: samples in which voice was found, (first, last + 1) each; empty: all.
        parts: the text.
    """
    n_frames = min(-(-len(pcm) // _FRAME), N_SAMPLES // _FRAME)
    n_tokens = sum(part.n_tokens for part in parts)
    found = np.arange(n_frames)
    for keep in (_voiced(n_frames, speech), _loud(pcm, n_frames), _told(n_frames, parts)):
        fewer = found[keep[found]] if keep is not None else found
        found = fewer if len(fewer) > n_tokens else found
    return found


def word_frames(
    attention: npt.NDArray[np.float32],
    frames: Frames,
    parts: Sequence[TextPart],
    word_lengths: Sequence[int],
) -> list[tuple[int, int]]:
    """The first frame of each word, and the one after its last.

    Args:
        attention: of each token to each of `frames`, (n_tokens, len(frames)).
        word_lengths: number of tokens of each word.
    """
    first = first_frames(attention - _far_from_segments(frames, parts))
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


def _told(n_frames: int, parts: Sequence[TextPart]) -> npt.NDArray[np.bool_]:
    """Frames near a segment."""
    keep = np.zeros(n_frames, bool)
    for index, part in enumerate(parts):
        following = parts[index + 1 : index + 2]
        end_s = part.end_s if part.end_s is not None or not following else following[0].start_s
        start = 0 if part.start_s is None else max(0.0, part.start_s - _REACH_S)
        stop = None if end_s is None else int((end_s + _REACH_S) / TIME_PRECISION_S)
        keep[int(start / TIME_PRECISION_S) : stop] = True
    return keep


def _far_from_segments(frames: Frames, parts: Sequence[TextPart]) -> npt.NDArray[np.float64]:
    """What each token pays for each frame, (n_tokens, len(frames))."""
    times_s = frames * TIME_PRECISION_S
    rows = []
    for part in parts:
        far = np.zeros(len(frames), bool)
        if part.start_s is not None and part.end_s is not None:
            far = (times_s < part.start_s - _MARGIN_S) | (times_s > part.end_s + _MARGIN_S)
        rows += [far] * part.n_tokens
    return _MARGIN_COST * np.array(rows, np.float64).reshape(-1, len(frames))


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
