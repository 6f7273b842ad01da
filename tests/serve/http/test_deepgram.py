"""Deepgram's protocol without a cluster: what addresses ask for, and how events are written."""

from typing import Any
from urllib.parse import parse_qsl

import pytest

from deployments.errors import ChunkFailedError
from deployments.live.events import (
    Committed,
    Completed,
    Delta,
    Event,
    Failed,
    SpeechStarted,
    SpeechStopped,
)
from deployments.live.options import TurnOptions
from engine import Word
from serve.http.deepgram.query import FileQuery, LiveQuery, parse_query
from serve.http.deepgram.rendering import Rendering
from serve.http.fields import FieldError

RAW = "encoding=linear16&sample_rate=16000"


def live(text: str = "") -> LiveQuery:
    return parse_query(parse_qsl(f"{RAW}&{text}", keep_blank_values=True), LiveQuery)


def knows(name: str) -> bool:
    return name in ("base", "tiny.en", "whisper-1", "nova-2")


def test_parameters_become_options() -> None:
    options = live("model=tiny.en&language=en-GB&keyterm=Marianne&keywords=Elinor:3").options(knows)
    assert (options.model, options.language, options.rate) == ("tiny.en", "en-GB", 16_000)
    assert options.keywords == ("Marianne", "Elinor :3")
    assert (options.encoding, options.turns) == ("pcm16", TurnOptions())
    assert live("keywords=Elinor:-2&keywords=a:b").options(knows).keywords == ("Elinor :0", "a:b")
    law = parse_query([("encoding", "mulaw")], LiveQuery).options(knows)
    assert (law.encoding, law.rate) == ("mulaw", 8_000)


@pytest.mark.parametrize(
    ("value", "turns"),
    [
        ("300", TurnOptions(silence_s=0.3)),
        ("10", TurnOptions(silence_s=0.1)),
        ("true", TurnOptions()),
        ("false", None),
    ],
)
def test_endpointing(value: str, turns: TurnOptions | None) -> None:
    assert live(f"endpointing={value}").options(knows).turns == turns


@pytest.mark.parametrize(
    ("asked", "model"),
    [("nova-3-medical", "whisper-1"), ("nova-2", "nova-2"), ("base", "base"), ("mine", "mine")],
)
def test_deepgrams_models_mean_the_default_one(asked: str, model: str) -> None:
    assert live(f"model={asked}").options(knows).model == model


def test_what_asks_for_nothing_is_taken() -> None:
    query = live("punctuate=true&smart_format=true&tag=a&tag=b&diarize=false&redact=&numerals=true")
    assert query.tag == ["a", "b"] and not query.interim_results
    assert live("language=multi").options(knows).language is None


@pytest.mark.parametrize(
    ("text", "param", "code"),
    [
        ("diarize=true", "diarize", "unsupported"),
        ("redact=pci", "redact", "unsupported"),
        ("channels=2", "channels", "invalid_value"),
        ("endpointing=-1", "endpointing", "invalid_value"),
        ("interim_results=perhaps", "interim_results", "invalid_value"),
        ("detect_language=true", "detect_language", "unknown_parameter"),
    ],
)
def test_what_is_not_there_is_refused_by_name(text: str, param: str, code: str) -> None:
    with pytest.raises(FieldError) as refused:
        live(text)
    assert (refused.value.param, refused.value.code) == (param, code)


def test_parameters_of_files_become_fields() -> None:
    asked = [("model", "nova-3"), ("language", "de"), ("keyterm", "Elinor"), ("utterances", "true")]
    fields = parse_query(asked, FileQuery).fields(knows)
    assert ("model", "whisper-1") in fields and ("language", "de") in fields
    assert ("keywords[]", "Elinor") in fields
    found = parse_query([*asked, ("detect_language", "true")], FileQuery).fields(knows)
    assert "language" not in dict(found)


def words(text: str, start_s: float, step_s: float = 0.5) -> tuple[Word, ...]:
    return tuple(
        Word(start_s + n * step_s, start_s + (n + 1) * step_s, f" {word}", 0.8)
        for n, word in enumerate(text.split())
    )


def told(rendering: Rendering, events: list[Event]) -> list[dict[str, Any]]:
    return [message for event in events for message in rendering.events(event)]


def shape(message: dict[str, Any]) -> tuple[Any, ...]:
    """Text, place, and the flags of a result."""
    return (
        message["channel"]["alternatives"][0]["transcript"],
        message["start"],
        round(message["start"] + message["duration"], 3),
        *(message[name] for name in ("is_final", "speech_final", "from_finalize")),
    )


def turn(text: str, start_s: float) -> list[Event]:
    """A turn whose words are told two by two, and that ends with a silence."""
    said = words(text, start_s)
    pairs = [said[n : n + 2] for n in range(0, len(said), 2)]
    texts = ["".join(word.text for word in pair) for pair in pairs]
    texts[0] = texts[0].lstrip()
    deltas: list[Event] = [
        Delta("a", part, words=pair) for part, pair in zip(texts, pairs, strict=True)
    ]
    end_s = said[-1].end_s + 0.5
    return [
        SpeechStarted("a", start_s - 0.3),
        *deltas,
        SpeechStopped("a", end_s),
        Committed("a", None),
        Completed("a", text, start_s - 0.3, end_s, "en", said),
    ]


def test_interim_results_grow_until_the_final_one() -> None:
    rendering = Rendering(live("interim_results=true&vad_events=true"), "request")
    started, *results = told(rendering, turn("One two, three four.", 1.0))
    assert started == {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.7}
    assert [shape(each) for each in results] == [
        ("One two,", 0.7, 2.0, False, False, False),
        ("One two, three four.", 0.7, 3.0, False, False, False),
        ("One two, three four.", 0.7, 3.5, True, True, False),
    ]
    (last,) = results[-1]["channel"]["alternatives"]
    assert [word["word"] for word in last["words"]] == ["one", "two", "three", "four"]
    assert last["words"][1]["punctuated_word"] == "two," and last["confidence"] == 0.8
    assert "languages" not in last


def test_long_turns_are_told_in_parts_that_follow_one_another() -> None:
    text = " ".join(f"w{n}" for n in range(25))
    rendering = Rendering(live(), "request")
    results = [shape(each) for each in told(rendering, turn(text, 1.0))]
    assert len(results) == 3 and all(each[3] for each in results)
    assert [each[4] for each in results] == [False, False, True]
    assert " ".join(each[0] for each in results) == text
    assert [each[1] for each in results[1:]] == [each[2] for each in results[:-1]]


def test_finalize_marks_the_turn_that_it_ends() -> None:
    rendering = Rendering(live("endpointing=false"), "request")
    rendering.finalize()
    said = words("One two", 0.5)
    events: list[Event] = [Committed("a", None), Completed("a", "One two", 0.0, 2.0, "en", said)]
    assert [shape(each) for each in told(rendering, events)] == [
        ("One two", 0.0, 2.0, True, False, True)
    ]
    rendering.finalize()
    assert [shape(each) for each in rendering.nothing_to_finalize()] == [
        ("", 2.0, 2.0, True, False, True)
    ]
    after: list[Event] = [Committed("b", "a"), Completed("b", "", 2.0, 3.0)]
    assert told(rendering, after) == [], "it marks no other turn"


def test_utterances_end_once() -> None:
    rendering = Rendering(live("utterance_end_ms=1000"), "request")
    assert rendering.utterance_end(9.0) == [], "nobody has spoken"
    told(rendering, turn("One two", 1.0))
    assert rendering.utterance_end(2.9) == []
    (end,) = rendering.utterance_end(3.1)
    assert end == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 2.0}
    assert rendering.utterance_end(9.0) == []


def test_languages_of_several_and_failures() -> None:
    rendering = Rendering(live("language=multi&interim_results=true"), "request")
    *_, last = told(rendering, turn("Un deux", 1.0))
    assert last["channel"]["alternatives"][0]["languages"] == ["en"]
    (error,) = told(rendering, [Failed("b", ChunkFailedError(0.0, 1.0, 3))])
    assert error["type"] == "Error" and error["variant"] == "chunk_failed" and error["description"]
