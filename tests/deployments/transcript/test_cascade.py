"""Chunks whose text looks wrong go to a better tier, and no further than there is one."""

import math
from dataclasses import replace

import numpy as np
import pytest

from deployments.messages import Chunk, ChunkResult, Escalation, key_of_chunk
from deployments.transcript.cascade import (
    CascadeOptions,
    Ladder,
    fresh_prob,
    repeated_share,
    token_prob,
)
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.transcription import Progress, Transcription
from deployments.transcript.trials import Trials
from engine import DecodingOptions
from tests.deployments.routing.test_router import BASE, LARGE, TINY
from tests.deployments.transcript.test_transcription import begin, result

LADDER = Ladder((TINY, BASE, LARGE))
SOUND = " one two three four five six seven eight nine ten eleven twelve"


def doubt(text: str = SOUND, language: str | None = "en", **changes: object) -> str | None:
    return CascadeOptions().doubt(result("r/0/0", (0.0, 5.0, text), **changes), language)


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        (SOUND, {}, None),
        (SOUND, {"avg_logprob": math.log(0.79)}, "probability"),
        (SOUND, {"avg_logprob": math.log(0.81)}, None),
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


def with_logprobs(*logprobs: float) -> ChunkResult:
    one = result("r/0/0", (0.0, 5.0, SOUND), avg_logprob=-9.0)
    segment = replace(one.segments[0], tokens=tuple(range(len(logprobs))), logprobs=logprobs)
    return replace(one, segments=(segment,))


def test_the_mean_is_of_probabilities() -> None:
    """A single token that is all but impossible does not make the others doubtful."""
    assert token_prob(with_logprobs(0.0, math.log(0.5), -30.0)) == pytest.approx(0.5)
    assert CascadeOptions().doubt(with_logprobs(*[0.0] * 9, -30.0), "en") is None
    assert token_prob(result("r/0/0", avg_logprob=-1.0)) == pytest.approx(math.exp(-1.0))


def test_the_surer_text_is_kept() -> None:
    prefers = CascadeOptions().prefers
    sure, unsure = with_logprobs(0.0, -0.3, 0.0), with_logprobs(0.0, -0.4, 0.0)
    assert prefers(sure, unsure) and not prefers(unsure, sure)
    assert not prefers(sure, sure) and not prefers(None, unsure)
    assert prefers(unsure, replace(sure, compression_ratio=3.0)), "a loop is not"


def test_a_loop_is_no_surer_for_its_repetitions() -> None:
    """Nor for its timestamps, which are the first and the last token here."""
    said, repeated = [math.log(0.4)] * 4, [math.log(0.99)] * 40
    once = with_logprobs(-9.0, *said, -9.0)
    assert fresh_prob(once) == pytest.approx(0.4)
    tokens = (100, *(1, 2, 3, 4) * 11, 101)
    looped = with_logprobs(-9.0, *said, *repeated, -9.0)
    looped = replace(looped, segments=(replace(looped.segments[0], tokens=tokens),))
    # The three sequences that span two rounds are there for the first time, too.
    assert fresh_prob(looped) == pytest.approx((4 * 0.4 + 3 * 0.99) / 7)
    assert token_prob(looped) > 0.85
    open_end = replace(once.segments[0], end_s=None)
    assert fresh_prob(replace(once, segments=(open_end,))) < 0.4, "its last token is text"


def test_one_hopeless_chunk_in_eight_is_tried_for_its_tier() -> None:
    trials: Trials[int] = Trials()
    tried = {n: trial for n in range(17) if (trial := trials.join("tiny", n)) is not None}
    assert list(tried) == [0, 8, 16] and trials.join("base", 17) is not None
    assert trials.released() == []
    trials.end(tried[0], True)
    trials.end(tried[0], False)
    assert trials.released() == [(n, True) for n in range(1, 8)]
    trials.end(tried[8], False)
    assert trials.released() == [(n, False) for n in range(9, 16)]
    assert trials.released() == []


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


def test_a_doubted_chunk_climbs_until_it_looks_right(speech: np.ndarray) -> None:
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
        Escalation("tiny.en", "probability"),
        Escalation("base", "compression"),
    )
    assert transcription.done


def test_at_the_top_it_is_tried_hotter_and_stays_there(speech: np.ndarray) -> None:
    transcription, chunks = begin(speech, ladder=LADDER)
    chunk = only(transcription.accept(answer(chunks[0], "tiny.en", avg_logprob=-2.0)))
    hotter = only(transcription.accept(answer(chunk, "large", avg_logprob=-2.0)))
    assert (hotter.options.temperature, hotter.above) == (0.2, BASE.quality)
    while True:
        progress = transcription.accept(
            answer(hotter, "large", avg_logprob=-2.0, temperature=hotter.options.temperature)
        )
        if not progress.chunks:
            break
        hotter = only(progress)
        assert hotter.above == BASE.quality, "no other tier may have it"
    assert {segment.model for segment in progress.segments} == {"large"}


def kept(speech: np.ndarray, *answers: tuple[str, dict[str, object]]) -> set[str]:
    """Models of the first chunk's segments, after these answers to it."""
    transcription, chunks = begin(speech, ladder=LADDER)
    chunk = chunks[0]
    for model, changes in answers:
        progress = transcription.accept(answer(chunk, model, **changes))
        if progress.chunks:
            chunk = only(progress)
    return {segment.model for segment in progress.segments}


def test_where_the_larger_model_is_less_sure_the_smaller_ones_text_stays(
    speech: np.ndarray,
) -> None:
    ladder = (("tiny.en", {"avg_logprob": -0.5}), ("base", {"avg_logprob": -0.4}))
    assert kept(speech, *ladder, ("large", {"avg_logprob": -0.3})) == {"large"}
    assert kept(speech, *ladder, ("large", {"avg_logprob": -0.45})) == {"base"}
    fallen = (("tiny.en", {"avg_logprob": -0.4}), ("base", {"avg_logprob": -0.5}))
    assert kept(speech, *fallen, ("large", {"avg_logprob": -0.45})) == {"tiny.en"}
    # What was wrong in another way is not kept, however sure it was.
    loop = ("tiny.en", {"compression_ratio": 3.0, "avg_logprob": -0.1})
    assert kept(speech, loop, ("large", {"avg_logprob": -0.9})) == {"large"}


def test_a_text_is_made_do_with_where_no_better_tier_is_there(
    speech: np.ndarray,
) -> None:
    transcription, chunks = begin(speech, ladder=LADDER)
    first, second, *_ = chunks
    assert transcription.give_up(key_of_chunk(first.key)) is None, "it has none yet"
    sent = only(transcription.accept(answer(first, "tiny.en", compression_ratio=3.0)))
    progress = transcription.give_up(key_of_chunk(sent.key))
    assert progress is not None and {s.model for s in progress.segments} == {"tiny.en"}
    assert transcription.transcript().escalations == ()
    higher = only(transcription.accept(answer(second, "tiny.en", avg_logprob=-0.5)))
    top = only(transcription.accept(answer(higher, "base", avg_logprob=-0.6)))
    progress = transcription.give_up(key_of_chunk(top.key))
    assert progress is not None and {s.model for s in progress.segments} == {"tiny.en"}
    assert transcription.transcript().escalations == (Escalation("tiny.en", "probability"),)


def test_a_text_that_was_but_unsure_goes_before_a_loop(speech: np.ndarray) -> None:
    transcription, chunks = begin(speech, ladder=LADDER)
    higher = only(transcription.accept(answer(chunks[0], "tiny.en", avg_logprob=-0.5)))
    looped = answer(higher, "base", compression_ratio=3.0, avg_logprob=-0.1)
    top = only(transcription.accept(looped))
    progress = transcription.give_up(key_of_chunk(top.key))
    assert progress is not None and {s.model for s in progress.segments} == {"tiny.en"}


def test_a_text_at_the_top_is_made_do_with_where_the_top_goes_away(speech: np.ndarray) -> None:
    """In the middle of its hotter attempts, and though no smaller model had tried before."""
    transcription, chunks = begin(speech, ladder=LADDER)
    hotter = only(transcription.accept(answer(chunks[0], "large", avg_logprob=-2.0)))
    progress = transcription.give_up(key_of_chunk(hotter.key))
    assert progress is not None and {s.model for s in progress.segments} == {"large"}


def test_a_doubted_language_is_told_anew(speech: np.ndarray) -> None:
    """The better model may hear another one; a language that the caller named stays."""
    clip = speech[: 5 * 16_000]
    for named, asked in ((None, None), ("en", "en")):
        decoding = DecodingOptions(language=named)
        options = TranscriptionOptions(decoding=decoding, ladder=LADDER)
        transcription = Transcription("r", options, detect=named is None)
        (chunk,) = [*transcription.push(clip), *transcription.finish()]
        unsure = answer(chunk, "base", language="en", language_prob=0.3)
        higher = only(transcription.accept(unsure))
        assert higher.options.language == asked
        transcription.accept(answer(higher, "large", language=named or "fr"))
        assert transcription.transcript().language == (named or "fr")


def test_a_chunk_that_was_sent_past_a_tier_climbs_from_there(speech: np.ndarray) -> None:
    """A full tier's chunks go to the next one, which may be doubted in its turn."""
    transcription, chunks = begin(speech, ladder=LADDER)
    chunk = only(transcription.accept(answer(chunks[0], "base", avg_logprob=-0.9)))
    assert chunk.above == BASE.quality


def test_context_stays_on_one_tier() -> None:
    with pytest.raises(ValueError, match="stay on one tier"):
        TranscriptionOptions(context_chunks=2, ladder=LADDER)


LOST = {"avg_logprob": math.log(0.3), "compression_ratio": 3.0}
ONLY_TINY_AND_BASE = Ladder((TINY, BASE))


def all_lost(speech: np.ndarray) -> tuple[Transcription, Chunk, list[Chunk]]:
    """A file of which the small model understands nothing: the chunk that went up, the others."""
    transcription, chunks = begin(speech, ladder=ONLY_TINY_AND_BASE)
    sent = [transcription.accept(answer(chunk, "tiny.en", **LOST)).chunks for chunk in chunks]
    assert [len(more) for more in sent] == [1, *(0 for _ in chunks[1:])]
    return transcription, sent[0][0], chunks[1:]


def test_hopeless_chunks_follow_one_that_the_better_model_understood(speech: np.ndarray) -> None:
    transcription, tried, others = all_lost(speech)
    progress = transcription.accept(answer(tried, "base"))
    assert [chunk.above for chunk in progress.chunks] == [TINY.quality] * len(others)
    assert {chunk.options.temperature for chunk in progress.chunks} == {0.0}
    for chunk in progress.chunks:
        transcription.accept(answer(chunk, "base"))
    assert transcription.done
    assert {segment.model for segment in transcription.segments} == {"base"}
    assert len(transcription.escalations) == 1 + len(others)


def test_hopeless_chunks_stay_where_the_better_model_was_lost_as_well(speech: np.ndarray) -> None:
    """They are tried hotter where they are, and each chunk of the file is there once, in order."""
    transcription, chunk, others = all_lost(speech)
    while chunk.above is not None:
        hot = chunk.options.temperature
        progress = transcription.accept(answer(chunk, "base", temperature=hot, **LOST))
        chunk = progress.chunks[0]
    assert len(progress.chunks) == len(others)
    assert {(c.above, c.options.temperature) for c in progress.chunks} == {(None, 0.2)}
    for again in progress.chunks:
        assert transcription.accept(answer(again, "tiny.en", temperature=0.2)).chunks == []
    assert transcription.done
    models = [segment.model for segment in transcription.segments]
    assert models == ["base", *("tiny.en" for _ in others)]
    starts = [segment.start_s for segment in transcription.segments]
    assert starts == sorted(starts)
    assert len(transcription.escalations) == 1


def test_hopeless_chunks_stay_where_no_better_tier_is_there(speech: np.ndarray) -> None:
    transcription, tried, others = all_lost(speech)
    progress = transcription.give_up(key_of_chunk(tried.key))
    assert progress is not None and len(progress.chunks) == len(others)
    assert {chunk.above for chunk in progress.chunks} == {None}


def test_without_hopeless_all_go_up(speech: np.ndarray) -> None:
    ladder = Ladder((TINY, BASE), CascadeOptions(hopeless_token_prob=0.0))
    transcription, chunks = begin(speech, ladder=ladder)
    for chunk in chunks:
        assert only(transcription.accept(answer(chunk, "tiny.en", **LOST))).above == TINY.quality
