"""When the text of a short window is taken, and what happens where it is not."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.messages import ChunkResult
from deployments.transcript.cascade import Ladder
from deployments.transcript.piece import Piece
from deployments.transcript.short_window import ShortWindowOptions, repeats_at_once
from deployments.transcript.transcription import Transcription
from deployments.transcript.vad import Region
from engine import SAMPLE_RATE, Window
from tests.deployments.routing.test_router import BASE, TINY
from tests.deployments.transcript.test_transcription import begin, result, whole

SOUND = " one two three four five six seven eight nine ten eleven twelve"
LENGTH = 6 * SAMPLE_RATE
PIECE = Piece(
    np.zeros(LENGTH, np.int16), (Region(0, LENGTH),), (Region(0, LENGTH),), (Region(0, LENGTH),)
)


def short(result: ChunkResult, **changes: Any) -> ChunkResult:
    return replace(result, n_frames=640, **changes)


@pytest.mark.parametrize(
    ("text", "end_s", "changes", "reason"),
    [
        (SOUND, 5.0, {}, None),
        (SOUND, 5.0, {"finish_reason": "length"}, "length"),
        ("", 5.0, {}, "empty"),
        (" ...", 5.0, {}, "empty"),
        (SOUND, 5.0, {"language_prob": 0.4}, "language"),
        (SOUND, 5.0, {"no_speech_prob": 0.7}, "no_speech"),
        (SOUND, 5.0, {"compression_ratio": 2.5}, "repetition"),
        (" one two three. Two three.", 5.0, {}, "repetition"),
        (SOUND, 5.0, {"avg_logprob": math.log(0.3)}, "probability"),
        (40 * " abcdef ghi", 5.0, {"compression_ratio": 1.0}, "repetition"),
        (SOUND, 7.9, {}, None),
        (SOUND, 8.1, {}, "time"),
    ],
)
def test_signs_of_a_window_that_was_too_short(
    text: str, end_s: float, changes: dict[str, object], reason: str | None
) -> None:
    found = result("r/0/0", (0.0, end_s, text), **changes)
    assert ShortWindowOptions().doubt(PIECE, found) == reason


def test_nobody_says_so_much() -> None:
    text = " ".join(f"{i}abcdefg" for i in range(40))
    found = result("r/0/0", (0.0, 5.0, text))
    assert ShortWindowOptions().doubt(PIECE, found) == "coverage"


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("a b c d", False),
        ("a a b", False),
        ("a b a c", False),
        ("a b a b", True),
        ("x a b c a b c y", True),
        ("no no no no", True),
    ],
)
def test_words_said_twice_in_a_row(text: str, repeats: bool) -> None:
    assert repeats_at_once(text.split()) == repeats


def lone(speech: np.ndarray, **options: object) -> tuple[Transcription, list]:
    transcription, chunks = begin(speech[: 6 * SAMPLE_RATE], **options)
    assert len(chunks) == 1 and chunks[0].window is None
    return transcription, chunks


def test_a_good_text_is_taken(speech: np.ndarray) -> None:
    transcription, (chunk,) = lone(speech)
    progress = transcription.accept(short(whole(chunk, SOUND)))
    assert [segment.text for segment in progress.segments] == [SOUND]
    assert transcription.done and transcription.n_whole_again == 0


def test_a_doubted_text_is_forgotten_for_that_of_the_whole_window(speech: np.ndarray) -> None:
    """Also its language, and all that comes after is what it would be without it."""
    transcription, (chunk,) = lone(speech, detect=True)
    bad = short(whole(chunk, SOUND), language="fr", language_prob=0.3)
    (again,) = transcription.accept(bad).chunks
    assert again.window is Window.EXACT and again.options == chunk.options
    assert transcription.language is None and transcription.n_whole_again == 1
    poor = replace(whole(again, SOUND), avg_logprob=-1.5)
    (hotter,) = transcription.accept(poor).chunks
    assert hotter.window is Window.EXACT and hotter.options.temperature == 0.2
    plain, (only,) = begin(speech[: 6 * SAMPLE_RATE], detect=True)
    (same,) = plain.accept(replace(poor, key=only.key)).chunks
    assert same.options == hotter.options and same.window is None


def test_speech_without_text_is_a_sign(speech: np.ndarray) -> None:
    transcription, (chunk,) = lone(speech)
    (again,) = transcription.accept(short(result(chunk.key, (0.0, 2.0, " One two")))).chunks
    assert again.window is Window.EXACT and len(again.pcm) == len(chunk.pcm)


def test_a_better_tier_hears_only_of_whole_windows(speech: np.ndarray) -> None:
    transcription, (chunk,) = lone(speech, ladder=Ladder((TINY, BASE)))
    unsure = replace(whole(chunk, SOUND), avg_logprob=math.log(0.7), model=TINY.name)
    (again,) = transcription.accept(short(unsure)).chunks
    assert again.above is None and again.window is Window.EXACT and not transcription.escalations
    (up,) = transcription.accept(replace(unsure, key=again.key)).chunks
    assert up.above == TINY.quality and up.window is None


def test_what_is_decoded_again_gets_whole_windows(speech: np.ndarray) -> None:
    transcription, (chunk,) = lone(speech)
    (tail,) = transcription.accept(result(chunk.key, (0.0, 2.0, " One two"))).chunks
    assert len(tail.pcm) < len(chunk.pcm) and tail.window is Window.EXACT


def test_languages_are_told_from_whole_windows(speech: np.ndarray) -> None:
    _, (asking,) = begin(speech, detect=True)
    assert asking.options.task == "detect_language" and asking.window is Window.EXACT
