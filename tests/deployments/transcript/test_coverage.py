"""Speech whose words a result leaves out is decoded again, and what helps nothing ends."""

import numpy as np
import pytest

from deployments.messages import Chunk, ChunkResult
from deployments.options import ChunkingOptions
from deployments.transcript.coverage import CoverageOptions
from deployments.transcript.transcription import Transcription
from engine import SAMPLE_RATE, DecodingOptions
from tests.deployments.transcript.test_transcription import begin, result

FIRST = " Unless to be rather cold-hearted and rather selfish is to be ill-disposed."
SECOND = " And Mr. John Dashwood had then leisure to consider how much there might be in his power."
DEFAULT = {"coverage": CoverageOptions(), "chunking": ChunkingOptions()}


@pytest.fixture(scope="module")
def two(clips: dict[str, np.ndarray]) -> np.ndarray:
    """5 s of speech, a pause from 5.3 to 6.5 s, 7 s of speech."""
    pause = np.zeros(round(1.2 * SAMPLE_RATE), np.int16)
    return np.concatenate([clips["librivox-0890.wav"], pause, clips["librivox-0870.wav"]])


def start(pcm: np.ndarray, **options: object) -> tuple[Transcription, Chunk]:
    transcription, (chunk,) = begin(pcm, **(DEFAULT | options))
    return transcription, chunk


def looked_at_again(
    pcm: np.ndarray, first: ChunkResult, *answers: tuple[tuple[float, float | None, str], ...]
) -> tuple[Transcription, list[Chunk]]:
    """A transcription whose only chunk had a first result, and then these answers."""
    transcription, chunk = start(pcm)
    assert first.key == chunk.key
    chunks, seen = transcription.accept(first).chunks, []
    for segments in answers:
        (again,) = chunks
        seen.append(again)
        chunks = transcription.accept(result(again.key, *segments)).chunks
    assert chunks == [] and transcription.done
    return transcription, seen


def key(pcm: np.ndarray) -> str:
    return start(pcm)[1].key


@pytest.mark.parametrize("end_s", [None, 13.4])
def test_text_too_short_for_its_speech_is_decoded_again_in_two(
    end_s: float | None, two: np.ndarray
) -> None:
    """Whether the model gave no end, or one far behind its words: cut in the pause."""
    transcription, (left, right) = looked_at_again(
        two, result(key(two), (0.0, end_s, FIRST)), ((0.0, None, FIRST),), ((0.0, 7.0, SECOND),)
    )
    assert 5.3 < len(left.pcm) / SAMPLE_RATE < 6.5
    assert transcription.transcript().text == (FIRST + SECOND).strip()
    one, other = transcription.segments
    assert one.end_s < 5.4 and 5.3 < other.start_s < 6.6
    assert len(left.pcm) + len(right.pcm) <= len(two)


def test_text_that_fills_its_speech_needs_no_end(two: np.ndarray) -> None:
    transcription, _ = looked_at_again(two, result(key(two), (0.0, None, FIRST + SECOND)))
    assert transcription.segments[0].end_s == pytest.approx(13.5, abs=0.3)


def test_a_slow_speaker_costs_two_chunks_and_keeps_the_text(two: np.ndarray) -> None:
    """A second look that finds no more is the last, and the first one's text stays."""
    transcription, _ = looked_at_again(
        two,
        result(key(two), (0.0, 13.4, " Unless to be Mr. John Dashwood.")),
        ((0.0, 5.0, " Unless to be"),),
        ((0.0, 7.0, " Mr. John Dashwood."),),
    )
    assert [s.text for s in transcription.segments] == [" Unless to be Mr. John Dashwood."]


def test_a_second_look_that_finds_no_more_costs_no_words_behind_it(two: np.ndarray) -> None:
    pause = np.zeros(SAMPLE_RATE, np.int16)
    both = np.concatenate([two, pause, two[: round(5.3 * SAMPLE_RATE)]])
    transcription, _ = looked_at_again(
        both,
        result(key(both), (0.0, 13.4, " Unless to be Mr. John Dashwood.")),
        ((0.0, 5.0, " Unless to be"),),
        ((0.0, 7.0, " Mr. John Dashwood."),),
        ((0.0, 6.4, FIRST),),
    )
    texts = [" Unless to be Mr. John Dashwood.", FIRST]
    assert [s.text for s in transcription.segments] == texts


def test_words_between_two_segments_are_decoded_too(two: np.ndarray) -> None:
    both = np.concatenate([two, np.zeros(16_000, np.int16), two[: round(5.3 * SAMPLE_RATE)]])
    jumped = result(key(both), (0.0, 5.2, FIRST), (14.6, 19.8, FIRST))
    transcription, (gap,) = looked_at_again(both, jumped, ((0.0, 7.1, SECOND),))
    assert 7.0 < len(gap.pcm) / SAMPLE_RATE < 10.0
    assert [s.text for s in transcription.segments] == [FIRST, SECOND, FIRST]
    starts = [s.start_s for s in transcription.segments]
    assert starts == sorted(starts)


def test_a_sentence_that_ends_just_behind_a_pause_ended_before_it(two: np.ndarray) -> None:
    """Else the first word behind the pause is lost."""
    transcription, (tail,) = looked_at_again(
        two, result(key(two), (0.0, 7.0, FIRST)), ((0.0, 7.0, SECOND),)
    )
    assert len(tail.pcm) / SAMPLE_RATE > 7.1, "all of the second clip"
    assert transcription.segments[0].end_s < 6.6


@pytest.mark.parametrize("changes", [{}, {"no_speech_prob": 0.9, "avg_logprob": -1.5}])
def test_clear_speech_without_text_is_decoded_again_without_the_prompt(
    changes: dict[str, float], two: np.ndarray
) -> None:
    """No text at all, or text that was dropped as silence."""
    decoding = DecodingOptions(language="en", prompt="Claude")
    transcription, chunk = start(two, decoding=decoding)
    assert chunk.options.prompt == "Claude"
    segments = [(0.0, 2.0, " Thanks!")] if changes else []
    (again,) = transcription.accept(result(chunk.key, *segments, **changes)).chunks
    assert again.options.prompt is None and len(again.pcm) == len(chunk.pcm)
    (left,) = transcription.accept(result(again.key, *segments, **changes)).chunks
    assert left.options.prompt is None and len(left.pcm) < 6.5 * SAMPLE_RATE
    (right,) = transcription.accept(result(left.key, (0.0, 5.0, FIRST))).chunks
    progress = transcription.accept(result(right.key, (0.0, 7.0, SECOND)))
    assert transcription.done and [s.text for s in progress.segments] == [FIRST, SECOND]


def test_a_second_look_makes_nothing_up(two: np.ndarray) -> None:
    """Where the first one heard nothing, any doubt is enough; and it ends there."""
    transcription, chunk = start(two)
    (left,) = transcription.accept(result(chunk.key)).chunks
    (right,) = transcription.accept(result(left.key, (0.0, 5.0, FIRST), no_speech_prob=0.7)).chunks
    assert transcription.accept(result(right.key)).chunks == [] and transcription.done
    assert transcription.transcript().text == ""


def test_a_chunk_that_never_has_enough_text_ends(two: np.ndarray) -> None:
    """Whatever the model answers, the number of chunks is bounded."""
    transcription, chunk = start(np.concatenate([two, two]))
    chunks, n_chunks = [chunk], 0
    while chunks:
        n_chunks += 1
        text = " word" * n_chunks
        chunks = transcription.accept(result(chunks[0].key, (0.0, None, text))).chunks
    assert transcription.done and n_chunks <= 15
