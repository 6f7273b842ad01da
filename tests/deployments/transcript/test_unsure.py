"""Beams for the chunks whose greedy text is unsure."""

from typing import Literal

import numpy as np
import pytest

from deployments.messages import Chunk, ChunkResult
from deployments.options import TranscribeOptions
from deployments.tier import TierInfo
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import transcription_options
from deployments.transcript.transcription import Transcription
from deployments.transcript.unsure import UnsureOptions
from engine import DecodingOptions
from tests.deployments.transcript.test_transcription import begin, result

CLIP = "librivox-0880.wav"
UNSURE = UnsureOptions(beam_size=5, min_token_prob=0.8)


def heard(chunk: Chunk, text: str, avg_logprob: float, **changes: object) -> ChunkResult:
    return result(chunk.key, (0.0, 2.8, text), avg_logprob=avg_logprob, **changes)


def start(clips: dict[str, np.ndarray], **options: object) -> tuple[Transcription, Chunk]:
    transcription, (chunk,) = begin(clips[CLIP], unsure=UNSURE, **options)
    return transcription, chunk


def test_a_sure_text_is_kept(clips: dict[str, np.ndarray]) -> None:
    transcription, chunk = start(clips)
    assert chunk.options.beam_size == 1
    assert transcription.accept(heard(chunk, " sure", -0.1)).chunks == []
    assert transcription.done and transcription.transcript().text == "sure"


def test_an_unsure_text_is_searched_for_once(clips: dict[str, np.ndarray]) -> None:
    transcription, chunk = start(clips)
    (again,) = transcription.accept(heard(chunk, " unsure", -0.5)).chunks
    assert again.options.beam_size == 5 and again.options.temperature == 0.0
    np.testing.assert_array_equal(again.pcm, chunk.pcm)
    assert transcription.accept(heard(again, " searched", -0.5)).chunks == []
    assert transcription.done and transcription.transcript().text == "searched"


def test_what_looks_wrong_is_searched_for_before_it_is_sampled(
    clips: dict[str, np.ndarray],
) -> None:
    transcription, chunk = start(clips)
    seen = []
    while not transcription.done:
        seen.append((chunk.options.temperature, chunk.options.beam_size))
        loop = heard(chunk, " la la", -0.1, compression_ratio=9)
        chunk = next(iter(transcription.accept(loop).chunks), chunk)
    assert seen[:3] == [(0.0, 1), (0.0, 5), (0.2, 5)] and len(seen) == 7


def test_a_search_that_loops_does_not_replace_a_greedy_text_that_did_not(
    clips: dict[str, np.ndarray],
) -> None:
    transcription, chunk = start(clips)
    (chunk,) = transcription.accept(heard(chunk, " unsure", -0.5)).chunks
    while not transcription.done:
        loop = heard(chunk, " la la", -0.1, compression_ratio=9)
        chunk = next(iter(transcription.accept(loop).chunks), chunk)
    assert transcription.transcript().text == "unsure"


def test_sampled_text_is_not_searched_for(clips: dict[str, np.ndarray]) -> None:
    transcription, chunk = start(clips, fallback=FallbackOptions((0.5,)))
    assert transcription.accept(heard(chunk, " unsure", -0.5)).chunks == []


def test_who_asks_for_a_search_gets_no_second_one(clips: dict[str, np.ndarray]) -> None:
    decoding = DecodingOptions(language="en", beam_size=5)
    transcription, chunk = start(clips, decoding=decoding)
    assert transcription.accept(heard(chunk, " unsure", -0.5)).chunks == []


@pytest.mark.parametrize(
    ("asked", "n_slots", "beams"), [("auto", 8, (1, 5)), ("auto", 3, (1, 3)), (4, 8, (4, 1))]
)
def test_auto_takes_as_many_beams_as_the_tier_has_room_for(
    asked: int | Literal["auto"], n_slots: int, beams: tuple[int, int]
) -> None:
    info = TierInfo("m", "int8", ("en",), False, n_slots, max_texts=n_slots)
    wanted = transcription_options(TranscribeOptions(beam_size=asked), info)
    assert (wanted.decoding.beam_size, wanted.unsure.beam_size) == beams
