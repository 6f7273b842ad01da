"""Form fields as clients fill them in, and what answers contain."""

import json
from functools import partial

from tests.field.answers import Answer
from tests.field.audio import DATA, say
from tests.field.case import MODEL, Case, World, asked
from tests.field.checks import Check, Heard, Refused, That, every
from tests.field.clients import TRANSCRIPTIONS, TRANSLATIONS
from tests.field.media import write

_CLIP = say("C")
_FILE = DATA / "librivox-0870.wav"
_HEARD = Heard(_CLIP.said, times=False)
_EMPTY = (
    *("language", "prompt", "response_format", "temperature", "stream", "chunking_strategy"),
    *("timestamp_granularities[]", "include[]", "languages[]", "keywords[]"),
)
_ALIASES = ("whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")


def _ask(world: World, fields: dict[str, str | list[str]], route: str = TRANSCRIPTIONS) -> Answer:
    return world.served().transcribe(_FILE, {"model": MODEL, **fields}, route)


def _row(name: str, check: Check, route: str = TRANSCRIPTIONS, **fields: str | list[str]) -> Case:
    return asked(name, check, partial(_ask, fields=fields, route=route))


def _text_format(name: str, mark: str) -> list[Case]:
    plain = That(
        "200, text/plain; charset=utf-8",
        lambda a: (
            a.status == 200
            and a.headers["content-type"].replace(" ", "") == "text/plain;charset=utf-8"
            and mark in a.raw
        ),
    )
    seconds = That(
        "x-audio-seconds is 7.1",
        lambda a: a.status == 200 and abs(float(a.headers.get("x-audio-seconds", 0)) - 7.1) < 0.01,
    )
    return [
        _row(f"answer/{name} is text/plain", plain, response_format=name),
        _row(f"answer/{name} tells its seconds", seconds, response_format=name),
    ]


def _capitals(name: str, mark: str) -> Case:
    check = That(f"200, {name.lower()}", lambda a: a.status == 200 and mark in a.raw)
    return _row(f"capitals/{name}", check, response_format=name)


def _many_keywords(as_list: bool) -> Case:
    words = [f"Word{i:04}" for i in range(5_000)]
    fields = {"keywords[]": words} if as_list else {"keywords": json.dumps(words)}
    how = "fields" if as_list else "as JSON"
    return asked(f"keywords/5,000 {how}", _HEARD, partial(_ask, fields=fields))


def _silence(world: World) -> Answer:
    path = write(world.folder / "silence.wav", 0 * _CLIP.samples)
    return world.served().transcribe(path, {"model": "base"})


_LOGPROBS = That("200, log-probabilities", lambda a: bool(a.body.get("logprobs")))
_SEGMENTS = That("200, segments", lambda a: bool(a.body.get("segments")))
_ENGLISH = That("200, heard as English", lambda a: a.body.get("language") == "english")

CASES: list[Case] = [
    *(_row(f"alias/{name}", _HEARD, model=name) for name in _ALIASES),
    asked(
        "alias/listed in /v1/models",
        That(
            "200, all of OpenAI's names",
            lambda a: a.status == 200 and all(f'"{name}"' in a.raw for name in _ALIASES),
        ),
        lambda world: world.served().get("/v1/models"),
    ),
    *(_row(f"empty/{name}", _HEARD, **{name: ""}) for name in _EMPTY),
    asked("empty/all at once", _HEARD, partial(_ask, fields={name: "" for name in _EMPTY})),
    _row(
        "json/chunking_strategy",
        _HEARD,
        chunking_strategy='{"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 300}',
    ),
    _row(
        "json/chunking_strategy with a threshold of 2",
        Refused((400,), param="chunking_strategy", says="threshold"),
        chunking_strategy='{"type": "server_vad", "threshold": 2}',
    ),
    _row("lists/languages as JSON", _ENGLISH, model="base", languages='["en", "de"]',
         response_format="verbose_json"),
    _row("lists/languages with commas", _ENGLISH, model="base", languages="en,de",
         response_format="verbose_json"),
    _row("lists/languages as JSON with one that nobody knows",
         Refused((400,), param="languages", says="klingon"), model="base",
         languages='["en", "klingon"]'),
    _row("lists/granularities as JSON", _SEGMENTS, timestamp_granularities='["segment"]',
         response_format="verbose_json"),
    _row("lists/include as JSON", _LOGPROBS, include='["logprobs"]'),
    _row("lists/keywords with commas", _HEARD, keywords="Dashwood, leisure"),
    _many_keywords(as_list=False),
    _many_keywords(as_list=True),
    _capitals("SRT", "-->"),
    _capitals("VTT", "WEBVTT"),
    _capitals("JSON", '"text"'),
    _capitals("Verbose_JSON", '"segments"'),
    *_text_format("srt", "-->"),
    *_text_format("vtt", "WEBVTT"),
    *_text_format("text", "leisure"),
    asked(
        "answer/json has duration",
        every(That("duration 7.1", lambda a: abs(a.body.get("duration", 0) - 7.1) < 0.01), _HEARD),
        partial(_ask, fields={}),
    ),
    asked(
        "answer/nothing heard is in no language",
        That(
            'text "" and languages []',
            lambda a: a.status == 200 and a.body["text"] == "" and a.body["languages"] == [],
        ),
        _silence,
    ),
    _row(
        "translation/by an English-only tier",
        Refused((400,), says="multilingual|translat"),
        route=TRANSLATIONS,
    ),
]  # fmt: skip
