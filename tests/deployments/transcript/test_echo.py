"""The prompt as text: dropped over what is hardly speech, kept where it is said."""

import numpy as np
import pytest

from deployments.transcript.echo import without_echo
from deployments.transcript.piece import Piece
from deployments.transcript.vad import Region
from engine import SAMPLE_RATE
from tests.deployments.transcript.test_transcription import result

PROMPT = "Dashwood, Claude. Notes of a meeting: the budget, the plan, the schedule."


def kept(text: str, voiced_s: float, prompt: str | None = PROMPT) -> bool:
    whole = Region(0, 5 * SAMPLE_RATE)
    voiced = (Region(0, round(voiced_s * SAMPLE_RATE)),)
    piece = Piece(np.zeros(whole.length, np.int16), (whole,), (whole,), voiced)
    return bool(without_echo(piece, result("r/0/0", (0.0, 5.0, text)), prompt))


@pytest.mark.parametrize(
    ("text", "voiced_s", "stays"),
    [
        (" Notes of a meeting, the budget, the plan, the schedule.", 0.1, False),
        (" Dashwood, Claude.", 0.1, False),
        (" Dashwood.", 0.0, False),
        (" Notes of a meeting, the budget, the plan, the schedule.", 4.0, True),
        (" Dashwood, Claude.", 0.9, True),
        (" He was not an ill-disposed young man.", 0.1, True),
        (" The schedule of the plan of the budget of Claude.", 0.1, True),
    ],
)
def test_an_echo_is_what_nobody_had_time_to_say(text: str, voiced_s: float, stays: bool) -> None:
    assert kept(text, voiced_s) is stays


def test_without_a_prompt_nothing_is_an_echo() -> None:
    assert kept(" Dashwood.", 0.0, None)


def test_scripts_without_blanks_have_words_as_well() -> None:
    prompt = "予算と計画の会議"
    assert not kept("計画の会議", 0.05, prompt)
    assert kept("今日は晴れです", 0.05, prompt)
