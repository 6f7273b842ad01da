"""The checks of the field table, on right and on wrong answers."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.field.answers import Answer
from tests.field.audio import say
from tests.field.cases import all_cases
from tests.field.checks import Either, Heard, Refused, Silent, Warns, every

SPEECH = say("C", 1.0, "D")
C, D = SPEECH.said
RIGHT = ((C.start_s, C.end_s, C.words), (D.start_s, D.end_s, D.words))
HTTP = {"content-type": "application/json"}
WARNING = {"code": "damaged", "message": "lost", "start": 7.0, "end": 8.0}


def answer(segments: Sequence[tuple[float, float, str]] = RIGHT, **more: Any) -> Answer:
    body = {
        "text": " ".join(text for _, _, text in segments),
        "duration": SPEECH.duration_s,
        "usage": {"type": "duration", "seconds": SPEECH.duration_s},
        "segments": [{"start": s, "end": e, "text": t} for s, e, t in segments],
    }
    return Answer(200, json.dumps({**body, **more}), HTTP)


def refusal(message: str, status: int = 400, **more: str) -> Answer:
    error = {"message": message, "code": "invalid_audio", "param": "file", **more}
    return Answer(status, json.dumps({"error": error}), HTTP)


def moved(by_s: float) -> list[tuple[float, float, str]]:
    return [(start + by_s, end + by_s, text) for start, end, text in RIGHT]


HEARD = Heard(SPEECH.said, SPEECH.duration_s)


def test_a_right_answer_has_no_faults() -> None:
    assert HEARD.faults(answer()) == []
    whole = [(C.start_s, D.end_s, f"{C.words} {D.words}")]
    assert HEARD.faults(answer(whole)) == [], "one cue for both is true"
    pause = [(*RIGHT[0][:1], D.start_s, C.words), RIGHT[1]]
    assert HEARD.faults(answer(pause)) == [], "a pause may be in a cue"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (answer([]), "missing"),
        (answer(RIGHT[:1]), "8 of 8 words"),
        (answer(RIGHT[1:]), "22 of 22 words"),
        (answer([RIGHT[0], (D.start_s, D.end_s, "he was not an ill")]), "3 of 8 words"),
        (answer([*RIGHT, (12.0, 13.0, "thank you all for watching")]), "nobody said"),
        (answer([*RIGHT, RIGHT[1]]), "nobody said"),
        (answer(moved(-0.6)), "begins"),
        (answer(moved(0.6)), "begins"),
        (answer([RIGHT[0], (D.start_s + 5, D.end_s + 5, D.words)]), "begins"),
        (answer([(C.start_s, 9.5, C.words), RIGHT[1]]), "ends"),
        (answer([(C.start_s, 2.0, C.words), RIGHT[1]]), "ends"),
        (answer([(C.start_s, C.end_s, D.words), RIGHT[1]]), "lacks its words"),
        (answer(RIGHT, duration=SPEECH.duration_s + 0.2), "duration"),
        (answer(RIGHT, usage={"seconds": 0.0}), "usage.seconds"),
        (answer(RIGHT, text=C.words), "other words"),
        (refusal("no"), "no transcript"),
    ],
)
def test_wrong_words_and_times_are_found(wrong: Answer, says: str) -> None:
    assert any(says in fault for fault in HEARD.faults(wrong))


def test_words_of_a_damaged_stretch_may_be_lost_and_no_others() -> None:
    check = Heard(SPEECH.unsure(8.0, 9.0))
    assert check.faults(answer(RIGHT[:1])) == []
    assert check.faults(answer(RIGHT[1:]))
    assert Heard(SPEECH.until(8.5)).faults(answer(RIGHT[:1])) == []


def test_a_warning_must_be_there_about_the_right_place_and_with_exit_code_3() -> None:
    check = Warns(6.0, 8.0)
    assert check.faults(answer(warnings=[WARNING])) == []
    assert check.faults(answer(warnings=[WARNING | {"start": None, "end": None}])) == []
    assert check.faults(answer()) == ["no warning"]
    assert check.faults(answer(warnings=[WARNING | {"start": 60.0, "end": 61.0}]))
    assert check.faults(answer(warnings=[WARNING | {"message": "moov atom not found"}]))
    for exit_code, is_right in ((0, False), (2, False), (3, True)):
        told = Answer(200, answer(warnings=[WARNING]).raw, exit_code=exit_code)
        assert (check.faults(told) == []) is is_right


def test_an_error_must_be_ours_and_name_what_is_wrong() -> None:
    check = Refused((400, 422), "invalid_audio", "file", says="pdf")
    assert check.faults(refusal("a PDF is no audio")) == []
    assert check.faults(answer())
    assert check.faults(refusal("a PDF is no audio", 500))
    assert check.faults(refusal("this is no audio"))
    assert check.faults(refusal("a PDF is no audio", code="internal_error"))
    assert check.faults(refusal("a PDF is no audio", param="model"))
    assert check.faults(refusal("PDF: Invalid data found when processing input"))
    assert check.faults(refusal("PDF: [mov,mp4 @ 0x5581] bad"))
    assert Refused().faults(refusal(" "))


def test_silence_has_no_words_and_is_no_error() -> None:
    assert Silent().faults(answer([])) == []
    assert Silent().faults(answer())
    assert Silent().faults(refusal("no"))


def test_all_of_several_or_any_of_them() -> None:
    assert every(HEARD, Warns(6.0, 8.0)).faults(answer()) == ["no warning"]
    assert Either((Silent(), HEARD)).faults(answer()) == []
    assert Either((Silent(), HEARD)).faults(answer(RIGHT[:1]))


def test_every_row_says_what_is_right() -> None:
    for case in all_cases():
        right = case.check.right if hasattr(case, "check") else case.right
        assert right.strip(), case.name
