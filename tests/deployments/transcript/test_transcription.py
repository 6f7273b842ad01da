"""A file's state machine, fed with made-up results: order, languages, retries, tails."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.messages import Chunk, ChunkResult
from deployments.options import ChunkingOptions
from deployments.transcript.coverage import CoverageOptions
from deployments.transcript.fallback import FallbackOptions, best_result, is_silence, looks_wrong
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.transcription import Transcription
from engine import SAMPLE_RATE, DecodingOptions, Segment, Word


def result(key: str, *segments: tuple[float, float | None, str], **changes: object) -> ChunkResult:
    values: dict[str, object] = {
        "key": key,
        "segments": tuple(Segment(start, end, text, (1,)) for start, end, text in segments),
        "tokens": (1,),
        "language": "en",
        "language_prob": 0.9,
        "temperature": 0.0,
        "avg_logprob": -0.2,
        "no_speech_prob": 0.0,
        "compression_ratio": 1.2,
        "finish_reason": "stop",
        "model": "test",
    }
    return ChunkResult(**(values | changes))  # type: ignore[arg-type]


def begin(
    speech: np.ndarray, *, detect: bool = False, **options: object
) -> tuple[Transcription, list[Chunk]]:
    """A transcription that has read all of its audio, in chunks of at most 8 s."""
    decoding = DecodingOptions(language=None if detect else "en")
    values: dict[str, object] = {
        "decoding": decoding,
        "chunking": ChunkingOptions(8.0),
        # Made-up texts are shorter than real ones.
        "coverage": CoverageOptions(min_letters_per_s=0.0),
    }
    transcription = Transcription("r", TranscriptionOptions(**(values | options)), detect)  # type: ignore[arg-type]
    chunks = transcription.push(speech)
    return transcription, chunks + transcription.finish()


def whole(chunk: Chunk, text: str) -> ChunkResult:
    return result(chunk.key, (0.0, len(chunk.pcm) / SAMPLE_RATE, text))


def test_segments_come_in_file_order_whatever_finishes_first(speech: np.ndarray) -> None:
    transcription, chunks = begin(speech)
    assert len(chunks) >= 4
    for index in reversed(range(1, len(chunks))):
        assert transcription.accept(whole(chunks[index], f" {index}")).segments == []
    assert not transcription.done
    progress = transcription.accept(whole(chunks[0], " 0"))
    assert [s.text for s in progress.segments] == [f" {i}" for i in range(len(chunks))]
    assert transcription.done
    starts = [s.start_s for s in progress.segments]
    assert starts == sorted(starts) and starts[-1] > 20
    transcript = transcription.transcript()
    assert transcript.text == " ".join(str(index) for index in range(len(chunks)))
    assert transcript.duration_s == pytest.approx(len(speech) / SAMPLE_RATE)


def test_words_are_on_the_files_clock_and_never_overlap(speech: np.ndarray) -> None:
    """Each chunk's first word claims to begin at once, and its last ends behind the chunk."""
    decoding = DecodingOptions(language="en", words=True)
    transcription, chunks = begin(speech, decoding=decoding)
    assert all(chunk.speech and chunk.options.words for chunk in chunks)
    for chunk in chunks:
        end_s = len(chunk.pcm) / SAMPLE_RATE
        words = (Word(0.0, 0.5, " One", 0.9), Word(0.5, end_s + 0.3, " two.", 0.8))
        segment = Segment(0.1, end_s - 0.1, " One two.", (1,), (), words)
        transcription.accept(replace(result(chunk.key), segments=(segment,)))
    found = [word for s in transcription.segments for word in s.words]
    assert len(found) == 2 * len(chunks)
    assert all(a.end_s <= b.start_s for a, b in zip(found, found[1:], strict=False))
    assert all(word.start_s < word.end_s for word in found)
    assert found[-1].end_s <= len(speech) / SAMPLE_RATE
    for segment in transcription.segments:
        assert segment.start_s == segment.words[0].start_s
        assert segment.end_s == segment.words[-1].end_s


def test_words_of_two_looks_that_disagree_are_put_in_order(speech: np.ndarray) -> None:
    transcription, chunks = begin(speech, decoding=DecodingOptions(language="en", words=True))
    first = Segment(0.0, 2.0, " a", (1,), (), (Word(1.0, 2.5, " a", 0.9),))
    end_s = len(chunks[0].pcm) / SAMPLE_RATE
    second = Segment(2.0, end_s, " b", (1,), (), (Word(2.4, 2.5, " b", 0.9),))
    transcription.accept(replace(result(chunks[0].key), segments=(first, second)))
    a, b = [word for s in transcription.segments for word in s.words][:2]
    assert b.start_s == a.end_s and b.end_s == pytest.approx(b.start_s + 0.02)


def test_without_words_chunks_carry_no_speech(speech: np.ndarray) -> None:
    assert not any(chunk.speech for chunk in begin(speech)[1])


def test_a_second_result_of_a_chunk_is_ignored(speech: np.ndarray) -> None:
    transcription, chunks = begin(speech)
    first = transcription.accept(whole(chunks[0], " once")).segments
    assert [s.text for s in first] == [" once"]
    again = transcription.accept(whole(chunks[0], " twice"))
    assert again.segments == [] and again.chunks == []


def test_silence_is_an_empty_transcript() -> None:
    transcription, chunks = begin(np.zeros(3 * SAMPLE_RATE, np.int16), detect=True)
    assert chunks == [] and transcription.done
    transcript = transcription.transcript()
    assert (transcript.text, transcript.segments, transcript.language) == ("", (), "")


def test_the_first_speech_tells_the_language_of_all(speech: np.ndarray) -> None:
    transcription, asked = begin(speech, detect=True)
    assert [c.options.task for c in asked] == ["detect_language"]
    detected = result(asked[0].key, finish_reason="detected", language="it", language_prob=0.8)
    chunks = transcription.accept(detected).chunks
    assert len(chunks) >= 4 and {c.options.language for c in chunks} == {"it"}
    assert transcription.language == "it"


def test_an_unsure_detection_asks_on_and_the_votes_are_summed(speech: np.ndarray) -> None:
    transcription, chunks = begin(speech, detect=True)
    for language, probability in (("it", 0.4), ("es", 0.3), ("es", 0.2)):
        assert [c.options.task for c in chunks] == ["detect_language"]
        vote = result(
            chunks[0].key, finish_reason="detected", language=language, language_prob=probability
        )
        chunks = transcription.accept(vote).chunks
    assert {c.options.language for c in chunks} == {"es"}
    assert {c.options.task for c in chunks} == {"transcribe"}


def test_a_short_file_detects_while_it_is_decoded(clips: dict[str, np.ndarray]) -> None:
    transcription, (chunk,) = begin(clips["librivox-0880.wav"], detect=True)
    assert chunk.options.task == "transcribe" and chunk.options.language is None
    transcription.accept(result(chunk.key, (0.0, 2.0, " ja"), language="de"))
    assert transcription.transcript().language == "de"


def test_a_wrong_looking_result_is_decoded_again_hotter(clips: dict[str, np.ndarray]) -> None:
    transcription, (chunk,) = begin(clips["librivox-0880.wav"])
    seen = [chunk.options.temperature]
    for _ in range(5):
        loop = result(chunk.key, (0.0, 2.0, " la la"), compression_ratio=5.0)
        (chunk,) = transcription.accept(loop).chunks
        seen.append(chunk.options.temperature)
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    progress = transcription.accept(result(chunk.key, (0.0, 2.0, " good")))
    assert [s.text for s in progress.segments] == [" good"] and transcription.done


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ((), {}),
        (((0.0, 2.8, " ..."),), {}),
        (((0.0, 2.8, " a, b, a, b"),), {"compression_ratio": 9.0}),
        (((0.0, 2.8, " Thanks"),), {"no_speech_prob": 0.9, "avg_logprob": -1.2}),
        (((0.0, 1.1, " He"),), {"piece": "librivox-0920.wav"}),
    ],
)
def test_where_a_prompt_costs_words_they_are_heard_without_it(
    clips: dict[str, np.ndarray], said: tuple[Any, ...], more: dict[str, Any]
) -> None:
    pcm = clips[more.pop("piece", "librivox-0880.wav")]
    decoding = DecodingOptions(
        keywords=("Dashwood",), keyword_weights=(2.0,), prompt="In the park."
    )
    transcription, (chunk,) = begin(pcm, decoding=decoding)
    assert chunk.options.keywords == ("Dashwood",) and chunk.options.prompt == "In the park."
    wrong = result(chunk.key, *said, **more)
    (again,) = transcription.accept(wrong).chunks
    assert again.options.keywords == () and again.options.prompt is None
    assert again.options.temperature == 0.0
    # However unlikely that is: what the prompt led to is no rival.
    temperatures = [again.options.temperature]
    while not transcription.done:
        unlikely = result(again.key, (0.0, 9.0, " heard"), avg_logprob=-1.5)
        for again in transcription.accept(unlikely).chunks:
            assert again.options.prompt is None
            temperatures.append(again.options.temperature)
    assert transcription.transcript().text == "heard"
    assert temperatures == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("unprompted", "text"), [(-0.5, "He is"), (-1.2, "He is"), (-2.0, "He was")]
)
def test_a_text_that_is_merely_unlikely_with_a_prompt_is_a_rival_of_those_without(
    clips: dict[str, np.ndarray], unprompted: float, text: str
) -> None:
    transcription, (chunk,) = begin(
        clips["librivox-0880.wav"],
        decoding=DecodingOptions(language="en", prompt="In the park."),
        fallback=FallbackOptions((0.0, 0.5)),
    )
    chunks = transcription.accept(result(chunk.key, (0.0, 9.0, " He was"), avg_logprob=-1.5)).chunks
    assert [(c.options.temperature, c.options.prompt) for c in chunks] == [(0.0, None)]
    while chunks:
        said = result(chunks[0].key, (0.0, 9.0, " He is"), avg_logprob=unprompted)
        chunks = transcription.accept(said).chunks
    assert transcription.transcript().text == text


def test_the_best_of_bad_results_is_kept(clips: dict[str, np.ndarray]) -> None:
    options = FallbackOptions(temperatures=(0.0, 0.5))
    bad = [
        result("a", (0.0, 1.0, " loop"), compression_ratio=9.0, avg_logprob=-0.1),
        result("b", (0.0, 1.0, " unlikely"), avg_logprob=-1.5),
    ]
    assert best_result(bad, options).key == "b"
    transcription, (chunk,) = begin(clips["librivox-0880.wav"], fallback=options)
    (again,) = transcription.accept(
        result(chunk.key, (0.0, 1.0, " loop"), compression_ratio=9.0)
    ).chunks
    last = transcription.accept(result(again.key, (0.0, 2.8, " kept"), avg_logprob=-1.5))
    assert [s.text for s in last.segments] == [" kept"]


def test_doubted_speech_is_silence(clips: dict[str, np.ndarray]) -> None:
    options = FallbackOptions()
    doubted = {"no_speech_prob": 0.9, "avg_logprob": -1.4}
    assert is_silence(result("a", **doubted), options)
    assert not looks_wrong(result("a", **doubted), options)
    assert not is_silence(result("a", no_speech_prob=0.9, avg_logprob=-0.3), options)
    transcription, (chunk,) = begin(clips["librivox-0880.wav"])
    progress = transcription.accept(result(chunk.key, (0.0, 2.0, " Thanks!"), **doubted))
    assert progress == type(progress)([], []) and transcription.done


def test_speech_behind_the_last_timestamp_is_decoded_again(clips: dict[str, np.ndarray]) -> None:
    pcm = clips["librivox-0870.wav"]  # 7.1 s of speech
    transcription, (chunk,) = begin(pcm)
    progress = transcription.accept(result(chunk.key, (0.0, 3.0, " first")))
    (tail,) = progress.chunks
    assert progress.segments == []
    assert np.array_equal(tail.pcm, chunk.pcm[3 * SAMPLE_RATE :])
    progress = transcription.accept(result(tail.key, (0.0, 3.5, " second")))
    first, second = progress.segments
    assert (first.text, second.text) == (" first", " second")
    assert second.start_s - first.start_s == pytest.approx(3.0)
    assert transcription.done


def test_text_cut_off_by_the_token_limit_is_decoded_again(clips: dict[str, np.ndarray]) -> None:
    transcription, (chunk,) = begin(clips["librivox-0870.wav"])
    cut = result(chunk.key, (0.0, 3.0, " whole."), (3.2, None, " cut o"), finish_reason="length")
    (tail,) = transcription.accept(cut).chunks
    assert len(chunk.pcm) - len(tail.pcm) == round(3.2 * SAMPLE_RATE)
    progress = transcription.accept(result(tail.key, (0.0, 3.4, " cut off.")))
    assert [s.text for s in progress.segments] == [" whole.", " cut off."]


def test_an_open_end_is_the_end_of_the_speech(clips: dict[str, np.ndarray]) -> None:
    transcription, (chunk,) = begin(clips["librivox-0870.wav"])
    (segment,) = transcription.accept(result(chunk.key, (0.0, None, " all"))).segments
    assert 6.0 < segment.end_s <= 7.1


def test_what_is_unfinished_is_counted(speech: np.ndarray) -> None:
    """The driver reads ahead by this number: held, decoding and out of turn all count."""
    transcription, chunks = begin(speech)
    assert transcription.n_unfinished == len(chunks)
    transcription.accept(whole(chunks[-1], " last"))
    assert transcription.n_unfinished == len(chunks)
    transcription.accept(whole(chunks[0], " first"))
    assert transcription.n_unfinished == len(chunks) - 1


def test_a_limit_or_an_early_end_never_points_behind_the_audio(
    clips: dict[str, np.ndarray],
) -> None:
    """Whisper's clock runs to 30 s, whatever the chunk's length."""
    for start in (6.9, 7.05, 7.1, 30.0):
        transcription, (chunk,) = begin(clips["librivox-0870.wav"])
        late = result(chunk.key, (0.0, 3.0, " a"), (start, None, " b"), finish_reason="length")
        assert transcription.accept(late).chunks == [], start
        transcription, (chunk,) = begin(clips["librivox-0870.wav"])
        assert transcription.accept(result(chunk.key, (0.0, start, " a"))).chunks == []


def test_a_chunk_that_gets_nowhere_is_not_tried_for_ever(clips: dict[str, np.ndarray]) -> None:
    """It is cut in two once; what is no better then is kept as it was."""
    transcription, (chunk,) = begin(clips["librivox-0870.wav"])
    chunks, n_chunks = [chunk], 0
    while chunks:
        n_chunks += 1
        chunks = transcription.accept(result(chunks[0].key, (0.0, 0.02, " a"))).chunks
    assert n_chunks == 3 and transcription.done
    assert transcription.transcript().text in ("a", "a a")


def test_text_beyond_the_token_limit_is_decoded_in_halves(clips: dict[str, np.ndarray]) -> None:
    """One segment from 0 that the limit cut off: nothing tells where it stopped."""
    transcription, (chunk,) = begin(clips["librivox-0870.wav"])
    text = []
    chunks = transcription.accept(
        result(chunk.key, (0.0, None, " too long"), finish_reason="length")
    ).chunks
    n_samples = 0
    while chunks:
        (half,) = chunks
        n_samples += len(half.pcm)
        progress = transcription.accept(whole(half, f" {len(text)}"))
        text += [segment.text for segment in progress.segments]
        chunks = progress.chunks
    assert text == [" 0", " 0"] and n_samples == len(chunk.pcm)
    assert transcription.done


def test_a_callers_own_token_limit_is_kept(clips: dict[str, np.ndarray]) -> None:
    decoding = DecodingOptions(language="en", max_new_tokens=6)
    transcription, (chunk,) = begin(clips["librivox-0870.wav"], decoding=decoding)
    cut = result(chunk.key, (0.0, None, " only this"), finish_reason="length")
    (segment,) = transcription.accept(cut).segments
    assert segment.text == " only this"


def test_a_loop_in_context_is_decoded_again_without(speech: np.ndarray) -> None:
    options = FallbackOptions(temperatures=(0.0,))
    transcription, (first,) = begin(speech, context_chunks=99, fallback=options)
    (second,) = transcription.accept(whole(first, " The conference is locked.")).chunks
    assert second.options.previous_tokens
    loop = [(float(i), i + 1.0, " The conference is locked.") for i in range(4)]
    (again,) = transcription.accept(result(second.key, *loop)).chunks
    assert again.options.previous_tokens == () and again.options.temperature == 0.0
    assert np.array_equal(again.pcm, second.pcm)
    progress = transcription.accept(result(again.key, *loop))  # so it was said
    assert [segment.text for segment in progress.segments] == [loop[0][2]] * 4


def test_text_in_context_that_ends_early_is_decoded_again_without(speech: np.ndarray) -> None:
    """A sentence skipped in the middle shows as speech without text at the end."""
    transcription, (first,) = begin(speech, context_chunks=99)
    (second,) = transcription.accept(whole(first, " first")).chunks
    (third,) = transcription.accept(whole(second, " second")).chunks
    (again,) = transcription.accept(result(third.key, (0.0, 2.0, " early end"))).chunks
    assert third.options.previous_tokens and again.options.previous_tokens == ()
    assert np.array_equal(again.pcm, third.pcm), "all of it, not its tail"
    (segment,) = transcription.accept(whole(again, " all of it")).segments
    assert segment.text == " all of it"


def test_the_first_attempt_that_comes_back_is_taken(clips: dict[str, np.ndarray]) -> None:
    transcription, (chunk,) = begin(clips["librivox-0880.wav"])
    retried = replace(chunk, attempt=1)
    assert retried.key != chunk.key
    assert transcription.accept(whole(retried, " retried")).segments
    assert not transcription.accept(whole(chunk, " late")).segments


@pytest.mark.parametrize(
    "decoding",
    [
        DecodingOptions(task="detect_language"),
        DecodingOptions(temperature=0.5),
        DecodingOptions(previous_tokens=(1,)),
    ],
)
def test_options_that_a_file_cannot_have(decoding: DecodingOptions) -> None:
    with pytest.raises(ValueError, match="file|fallback"):
        TranscriptionOptions(decoding)


def test_rows_of_chunks_hand_their_text_on(speech: np.ndarray) -> None:
    """Rows of two: the first of each row at once, the second with the first one's tokens."""
    transcription, chunks = begin(speech, context_chunks=2)
    n_parts = transcription.n_unfinished
    assert len(chunks) == (n_parts + 1) // 2 and n_parts >= 4
    assert all(chunk.options.previous_tokens == () for chunk in chunks)
    (second,) = transcription.accept(whole(chunks[0], " first")).chunks
    assert second.options.previous_tokens == (1,)
    assert transcription.accept(whole(second, " second")).chunks == []
    for chunk in chunks[1:]:
        for following in transcription.accept(whole(chunk, " x")).chunks:
            transcription.accept(whole(following, " y"))
    assert transcription.done and transcription.transcript().text.startswith("first second x y")


def test_hot_text_is_not_handed_on(speech: np.ndarray) -> None:
    transcription, (first, *_) = begin(speech, context_chunks=99)
    (second,) = transcription.accept(
        result(first.key, (0.0, 7.0, " guess"), temperature=0.8)
    ).chunks
    assert second.options.previous_tokens == ()


def test_keys_are_unique_and_seeds_are_the_parts(speech: np.ndarray) -> None:
    _, chunks = begin(speech)
    assert len({chunk.key for chunk in chunks}) == len(chunks)
    seeds = [chunk.options.seed for chunk in chunks]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [chunk.options.seed for chunk in begin(speech)[1]]
