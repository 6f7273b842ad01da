"""Chunks whose text looks wrong go to a better tier, and no further than there is one."""

import numpy as np
import pytest

from deployments.cascade import CascadeOptions, Ladder, repeated_share
from deployments.messages import Chunk, ChunkResult, Escalation
from deployments.transcription import Progress, TranscriptionOptions
from tests.deployments.test_router import BASE, LARGE, TINY
from tests.deployments.test_transcription import begin, result, speech  # noqa: F401

LADDER = Ladder((TINY, BASE, LARGE))
SOUND = " one two three four five six seven eight nine ten eleven twelve"


def doubt(text: str = SOUND, language: str | None = "en", **changes: object) -> str | None:
    return CascadeOptions().doubt(result("r/0/0", (0.0, 5.0, text), **changes), language)


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        (SOUND, {}, None),
        (SOUND, {"avg_logprob": -0.46}, "logprob"),
        (SOUND, {"avg_logprob": -0.44}, None),
        (SOUND, {"compression_ratio": 2.5}, "compression"),
        (SOUND, {"no_speech_prob": 0.7}, "no_speech"),
        (SOUND, {"language": "fr"}, "language"),
        (SOUND, {"language_prob": 0.4}, "language"),
        (" I said that I know" * 4, {}, "repetition"),
        (" no no no no no no", {}, None),  # too short to tell
    ],
)
def test_what_looks_wrong(text: str, changes: dict[str, object], reason: str | None) -> None:
    assert doubt(text, **changes) == reason


def test_three_equal_segments_are_a_loop() -> None:
    looped = result("r/0/0", (0.0, 1.0, " a b"), (1.0, 2.0, " a b"), (2.0, 3.0, " A b"))
    assert CascadeOptions().doubt(looped, "en") == "repetition"


def test_a_share_of_sequences_that_were_there_before() -> None:
    """Of the nine sequences of `a b c d` three times over, four are the first of their kind."""
    assert repeated_share("a b c d " * 3) == pytest.approx(5 / 9)


def test_there_is_nothing_above_the_best_that_can() -> None:
    assert LADDER.above("tiny.en", "en", "transcribe") == TINY.quality
    assert LADDER.above("base", "fr", "transcribe") == BASE.quality
    assert LADDER.above("large", "en", "transcribe") is None
    assert Ladder((TINY, BASE)).above("base", "en", "transcribe") is None
    english_only = Ladder((BASE, TINY))
    assert english_only.above("tiny.en", "en", "transcribe") == TINY.quality
    assert english_only.above("base", "fr", "transcribe") is None


def answer(chunk: Chunk, model: str, **changes: object) -> ChunkResult:
    end_s = len(chunk.pcm) / 16_000
    return result(chunk.key, (0.0, end_s, SOUND), model=model, **changes)


def only(progress: Progress) -> Chunk:
    (chunk,) = progress.chunks
    return chunk


def test_a_doubted_chunk_climbs_until_it_looks_right(speech: np.ndarray) -> None:  # noqa: F811
    transcription, chunks = begin(speech, ladder=LADDER)
    assert {chunk.above for chunk in chunks} == {None}
    second = only(transcription.accept(answer(chunks[0], "tiny.en", avg_logprob=-0.6)))
    assert second.above == TINY.quality
    assert (second.pcm == chunks[0].pcm).all()
    assert second.options.temperature == 0.0
    third = only(transcription.accept(answer(second, "base", compression_ratio=3.0)))
    assert third.above == BASE.quality
    progress = transcription.accept(answer(third, "large"))
    assert {segment.model for segment in progress.segments} == {"large"}
    for chunk in chunks[1:]:
        assert transcription.accept(answer(chunk, "tiny.en")).chunks == []
    transcript = transcription.transcript()
    assert transcript.escalations == (
        Escalation("tiny.en", "logprob"),
        Escalation("base", "compression"),
    )
    assert transcription.done


def test_at_the_top_it_is_tried_hotter_and_stays_there(speech: np.ndarray) -> None:  # noqa: F811
    transcription, chunks = begin(speech, ladder=LADDER)
    chunk = only(transcription.accept(answer(chunks[0], "tiny.en", avg_logprob=-2.0)))
    hotter = only(transcription.accept(answer(chunk, "large", avg_logprob=-2.0)))
    assert (hotter.options.temperature, hotter.above) == (0.2, TINY.quality)
    while True:
        progress = transcription.accept(
            answer(hotter, "large", avg_logprob=-2.0, temperature=hotter.options.temperature)
        )
        if not progress.chunks:
            break
        hotter = only(progress)
        assert hotter.above == TINY.quality
    assert {segment.model for segment in progress.segments} == {"large"}


def test_a_chunk_that_was_sent_past_a_tier_climbs_from_there(speech: np.ndarray) -> None:  # noqa: F811
    """A full tier's chunks go to the next one, which may be doubted in its turn."""
    transcription, chunks = begin(speech, ladder=LADDER)
    chunk = only(transcription.accept(answer(chunks[0], "base", avg_logprob=-0.9)))
    assert chunk.above == BASE.quality


def test_context_stays_on_one_tier() -> None:
    with pytest.raises(ValueError, match="stay on one tier"):
        TranscriptionOptions(context_chunks=2, ladder=LADDER)
