"""Text that looks made up, with silence around it, is left out where the caller asks for that."""

from dataclasses import replace

import numpy as np
import pytest

from deployments.messages import Chunk, ChunkResult, TranscriptSegment
from deployments.options import ChunkingOptions, TranscribeOptions
from deployments.tier import TierInfo
from deployments.transcript.coverage import CoverageOptions
from deployments.transcript.hallucination import is_made_up, without_made_up
from deployments.transcript.options import TranscriptionOptions, transcription_options
from deployments.transcript.transcription import Transcription
from engine import SAMPLE_RATE, DecodingOptions, Segment, Word

SPAN_S = (0.0, 30.0)
SURE, UNSURE = 0.9, 0.1


def segment(
    start_s: float, end_s: float, probability: float, n_words: int = 2
) -> TranscriptSegment:
    """Words of equal length."""
    edges = np.linspace(start_s, end_s, n_words + 1).tolist()
    words = tuple(
        Word(begin, end, " so", probability) for begin, end in zip(edges, edges[1:], strict=False)
    )
    return TranscriptSegment(
        start_s, end_s, " so" * n_words, (1,), 0.0, -0.2, 1.0, 0.0, "m", words=words
    )


@pytest.mark.parametrize(
    ("seconds", "probability", "n_words", "made_up"),
    [
        (1.0, SURE, 2, False),
        (1.0, UNSURE, 2, True),
        (0.02, SURE, 1, True),  # 0.113 s too short: 1.7
        (0.1, SURE, 1, False),  # 0.5
        (2.9, SURE, 1, False),
        (3.0, SURE, 1, True),
        (0.8 * 8, UNSURE, 8, True),
        (0.5 * 20, UNSURE, 20, True),  # of the first eight three are enough
    ],
)
def test_words_look_made_up(
    seconds: float, probability: float, n_words: int, made_up: bool
) -> None:
    assert is_made_up(segment(0.0, seconds, probability, n_words)) is made_up


def test_three_improbable_words_among_the_first_eight_are_enough() -> None:
    words = segment(0.0, 10.0, SURE, 20).words
    two = (*(replace(word, probability=UNSURE) for word in words[:2]), *words[2:])
    three = (*(replace(word, probability=UNSURE) for word in words[:3]), *words[3:])
    late = (*words[:8], *(replace(word, probability=UNSURE) for word in words[8:]))
    found = [is_made_up(replace(segment(0, 10, SURE), words=each)) for each in (two, three, late)]
    assert found == [False, True, False]
    assert not is_made_up(replace(segment(0, 10, SURE), words=()))


@pytest.mark.parametrize(
    ("before", "odd", "after", "dropped"),
    [
        ((3, 6), (12, 13), (18, 20), True),
        ((3, 6), (7, 8), (18, 20), False),  # a second after words
        ((3, 6), (12, 13), (14, 20), False),  # a second before words
        ((3, 6), (28, 29), None, True),  # at the stretch's end
        ((3, 6), (20, 22), None, True),
        (None, (1, 2), (8, 9), True),  # at its beginning
    ],
)
def test_only_what_stands_alone_is_dropped(
    before: tuple[float, float] | None,
    odd: tuple[float, float],
    after: tuple[float, float] | None,
    dropped: bool,
) -> None:
    said = [segment(*times, SURE, 5) for times in (before,) if times]
    behind = [segment(*times, SURE, 5) for times in (after,) if times]
    kept, out = without_made_up([*said, segment(*odd, UNSURE), *behind], SPAN_S, 2.0)
    assert [each.start_s for each in out] == ([odd[0]] if dropped else [])
    assert len(kept) + len(out) == len(said) + 1 + len(behind)
    sure = [*said, segment(*odd, SURE), *behind]
    assert without_made_up(sure, SPAN_S, 2.0) == (sure, [])


def test_two_made_up_ones_in_a_row_are_both_dropped() -> None:
    kept, out = without_made_up(
        [segment(3, 6, SURE), segment(12, 13, UNSURE), segment(13.5, 14.5, UNSURE)], SPAN_S, 2.0
    )
    assert [each.start_s for each in kept] == [3]
    assert [each.start_s for each in out] == [12, 13.5], "what is left out is not said near it"


def finished(speech: np.ndarray, **options: object) -> Transcription:
    """Each chunk says one improbable word in its middle, the first one a good sentence."""
    decoding = DecodingOptions(language="en", words=True)
    values: dict[str, object] = {
        "decoding": decoding,
        "chunking": ChunkingOptions(8.0),
        "coverage": CoverageOptions(min_letters_per_s=0.0),
        "tail_s": 30.0,
    }
    transcription = Transcription("r", TranscriptionOptions(**(values | options)), False)  # type: ignore[arg-type]
    chunks = transcription.push(speech) + transcription.finish()
    for index, chunk in enumerate(chunks):
        transcription.accept(_said(chunk, SURE if index == 0 else UNSURE))
    assert transcription.done and len(chunks) > 2
    return transcription


def _said(chunk: Chunk, probability: float) -> ChunkResult:
    end_s = len(chunk.pcm) / SAMPLE_RATE
    words = (Word(1.0, 1.5, " so", probability),)
    segment = Segment(1.0, end_s, " so", (1,), (-0.1,), words)
    return ChunkResult(
        key=chunk.key, segments=(segment,), tokens=(1,), language="en", language_prob=0.9,
        temperature=0.0, avg_logprob=-0.2, no_speech_prob=0.0, compression_ratio=1.2,
        finish_reason="stop", model="test",
    )  # fmt: skip


def test_a_file_says_what_was_left_out(speech: np.ndarray) -> None:
    everything = finished(speech).transcript()
    assert len(everything.segments) > 2 and not everything.warnings
    transcript = finished(speech, hallucination_silence_threshold=2.0).transcript()
    assert transcript.segments == everything.segments[:1]
    left_out = everything.segments[1:]
    assert [(w.start_s, w.end_s) for w in transcript.warnings] == [
        (each.start_s, each.end_s) for each in left_out
    ]
    assert {w.code for w in transcript.warnings} == {"made_up"}
    assert "'so' looked made up" in transcript.warnings[0].message


def test_words_are_kept_only_if_they_were_asked_for(speech: np.ndarray) -> None:
    kept = finished(speech, hallucination_silence_threshold=2.0).segments
    bare = finished(speech, hallucination_silence_threshold=2.0, with_words=False).segments
    assert kept[0].words and bare == [replace(kept[0], words=())]
    info = TierInfo("m", "float32", ("en",), False, 8)
    options = transcription_options(TranscribeOptions(hallucination_silence_threshold=1.0), info)
    assert options.decoding.words and not options.with_words
    assert transcription_options(TranscribeOptions(words=True), info).with_words
