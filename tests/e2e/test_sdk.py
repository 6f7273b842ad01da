"""OpenAI's own client against a real cluster, its values checked again one by one: the client
accepts almost any shape in silence."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from serve.http.streaming import COMMENT
from serve.settings.config import OPENAI_MODELS
from tests.conftest import DATA
from tests.e2e.conftest import CLIP, KEY, LONG_S
from tests.support.cluster import ROOT, Cluster

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_CUE = re.compile(r"(\d\d:\d\d:\d\d[.,]\d\d\d) --> (\d\d:\d\d:\d\d[.,]\d\d\d)\n((?:.+\n)+)")


@pytest.fixture(scope="module")
def expected(long_file: Path) -> dict[str, Any]:
    """What `murmur transcribe` says of the long file, chunk by chunk as a server does."""
    command = [sys.executable, "-m", "serve.commands.cli", "transcribe", str(long_file)]
    options = ["--context", "1", "--threads", "1", "--format", "verbose_json"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def post(cluster: Cluster, file: Path, **fields: Any) -> httpx2.Response:
    with file.open("rb") as content:
        return httpx2.post(
            f"{cluster.url}/v1/audio/transcriptions",
            headers={"authorization": f"Bearer {KEY}"},
            data={"model": "tiny.en", **fields},
            files={"file": ("a.wav", content)},
            timeout=120,
        )


def events(body: str) -> list[dict[str, Any]]:
    """Of a stream; a busy machine's may have comments between them."""
    assert body.endswith("\n\n")
    lines = body.replace(COMMENT, "").strip().split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_json_is_the_text_of_the_command_line(
    client: openai.OpenAI, long_file: Path, expected: dict[str, Any]
) -> None:
    got = client.audio.transcriptions.create(model="tiny.en", file=long_file)
    assert got.text == expected["text"]
    assert got.usage is not None and got.usage.type == "duration"
    assert got.usage.seconds == LONG_S
    assert got.logprobs is None


def test_verbose_json_field_by_field(
    client: openai.OpenAI, long_file: Path, expected: dict[str, Any]
) -> None:
    got = client.audio.transcriptions.create(
        model="tiny.en", file=long_file, response_format="verbose_json"
    )
    assert got.text == expected["text"] and got.language == "english"
    assert isinstance(got.duration, float) and got.duration == LONG_S
    assert got.words is None
    assert got.segments is not None
    for index, (segment, same) in enumerate(zip(got.segments, expected["segments"], strict=True)):
        assert isinstance(segment.id, int) and segment.id == index
        values = segment.model_dump()
        assert set(values) == set(same)
        # The numbers of a run beside others are those of a run alone, to the bit.
        assert values == same
        assert 0 <= segment.start <= segment.end <= got.duration
    assert all(
        a.end <= b.start + 1e-6 for a, b in zip(got.segments, got.segments[1:], strict=False)
    )


@pytest.mark.parametrize("granularities", [["segment"], []])
def test_segments_are_there_unless_others_are_asked_for(
    client: openai.OpenAI, granularities: list[Any]
) -> None:
    got = client.audio.transcriptions.create(
        model="tiny.en",
        file=CLIP,
        response_format="verbose_json",
        timestamp_granularities=granularities,
    )
    assert got.segments and got.words is None


def test_text_is_bare(client: openai.OpenAI, long_file: Path, expected: dict[str, Any]) -> None:
    got = client.audio.transcriptions.create(
        model="tiny.en", file=long_file, response_format="text"
    )
    assert got == expected["text"] + "\n"


@pytest.mark.parametrize(("kind", "mark"), [("srt", ","), ("vtt", ".")])
def test_subtitles_have_the_words_in_cues_that_can_be_read(
    client: openai.OpenAI, long_file: Path, expected: dict[str, Any], kind: Any, mark: str
) -> None:
    got = client.audio.transcriptions.create(model="tiny.en", file=long_file, response_format=kind)
    assert isinstance(got, str)
    if kind == "vtt":
        assert got.startswith("WEBVTT\n\n")
    else:
        assert got.startswith("1\n")
    cues = _CUE.findall(got)
    assert " ".join(text for _, _, text in cues).split() == expected["text"].split()
    times = [(seconds(start, mark), seconds(end, mark)) for start, end, _ in cues]
    assert all(0.001 <= end - start <= 7.001 for start, end in times)
    assert all(a[1] <= b[0] + 1e-3 for a, b in zip(times, times[1:], strict=False))
    assert times[0][0] == pytest.approx(expected["segments"][0]["start"], abs=0.5)
    assert times[-1][1] == pytest.approx(expected["segments"][-1]["end"], abs=0.5)
    lines = [line for _, _, text in cues for line in text.splitlines()]
    assert max(map(len, lines)) <= 42 and max(text.count("\n") for _, _, text in cues) <= 2


def seconds(timestamp: str, mark: str) -> float:
    hours, minutes, rest = timestamp.split(":")
    whole, ms = rest.split(mark)
    return int(hours) * 3600 + int(minutes) * 60 + int(whole) + int(ms) / 1000


@pytest.mark.parametrize("kind", FORMATS)
def test_a_stream_joined_is_the_body_without_stream(
    cluster: Cluster, long_file: Path, kind: str
) -> None:
    body = post(cluster, long_file, response_format=kind).text
    answer = post(cluster, long_file, response_format=kind, stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    got = events(answer.text)
    assert [event["type"] for event in got].count("transcript.text.done") == 1
    done = got[-1]
    assert done["type"] == "transcript.text.done"
    deltas = [event["delta"] for event in got if event["type"] == "transcript.text.delta"]
    assert len(deltas) > 5, "text comes in parts"
    assert "".join(deltas) == done["text"]
    if kind in ("json", "verbose_json"):
        assert done["text"] == json.loads(body)["text"]
    elif kind == "text":
        assert done["text"] + "\n" == body
    else:
        assert done["text"] == body
    usage = done["usage"]
    assert usage["type"] == "tokens" and usage["input_tokens"] == LONG_S * 50
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    segments = [event for event in got if event["type"] == "transcript.text.segment"]
    if kind == "verbose_json":
        told = json.loads(body)["segments"]
        assert [(s["start"], s["end"], s["text"]) for s in segments] == [
            (s["start"], s["end"], s["text"]) for s in told
        ]
        assert [s["id"] for s in segments] == [f"seg_{i}" for i in range(len(told))]
        assert all(isinstance(s["speaker"], str) for s in segments)
    else:
        assert not segments


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("granularities", [None, ["segment"], ["word"], ["segment", "word"]])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_granularity_and_stream(
    client: openai.OpenAI, kind: Any, granularities: Any, stream: bool
) -> None:
    """Of a short clip: the words, or a refusal that names the field."""
    more = {} if granularities is None else {"timestamp_granularities": granularities}

    def ask() -> Any:
        create: Any = client.audio.transcriptions.create
        got = create(model="tiny.en", file=CLIP, response_format=kind, stream=stream, **more)
        return list(got) if stream else got

    if granularities is not None and kind != "verbose_json":
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert caught.value.param == "timestamp_granularities"
        assert caught.value.code and caught.value.type == "invalid_request_error"
        return
    got = ask()
    words = "word" in (granularities or ())
    if stream:
        assert [event.type for event in got].count("transcript.text.done") == 1
        text = got[-1].text
        told = [event for event in got if event.type == "transcript.text.segment"]
        assert all(("words" in event.model_dump()) == words for event in told)
    else:
        text = got if isinstance(got, str) else got.text
        if kind == "verbose_json":
            assert (got.words is not None) == words
            assert (got.segments is None) == (granularities == ["word"])
        assert isinstance(got, str) == (kind in ("text", "srt", "vtt"))
    assert "leisure to consider how much" in " ".join(text.split())
    assert ("-->" in text) == (kind in ("srt", "vtt"))


def test_words_spell_the_text_at_their_times(client: openai.OpenAI, long_file: Path) -> None:
    got = client.audio.transcriptions.create(
        model="tiny.en",
        file=long_file,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert got.words and got.segments
    assert " ".join(word.word for word in got.words) == got.text
    assert got.duration is not None
    assert all(0 <= word.start < word.end <= float(got.duration) for word in got.words)
    assert all(a.end <= b.start for a, b in zip(got.words, got.words[1:], strict=False))
    assert all(0 < word.model_dump()["probability"] <= 1 for word in got.words)
    assert {got.segments[0].start} <= {word.start for word in got.words}
    assert {segment.end for segment in got.segments} <= {word.end for word in got.words}


def test_the_client_reads_a_stream(
    client: openai.OpenAI, long_file: Path, expected: dict[str, Any]
) -> None:
    stream = client.audio.transcriptions.create(
        model="tiny.en", file=long_file, stream=True, include=["logprobs"]
    )
    deltas, done = [], None
    for event in stream:
        assert done is None, "nothing comes behind the end"
        if event.type == "transcript.text.delta":
            deltas.append(event)
        else:
            assert event.type == "transcript.text.done"
            done = event
    assert done is not None and done.text == expected["text"]
    assert "".join(delta.delta for delta in deltas) == done.text
    of_deltas = [entry.model_dump() for delta in deltas for entry in delta.logprobs]
    assert [entry.model_dump() for entry in done.logprobs] == of_deltas


def test_logprobs_spell_the_text(client: openai.OpenAI) -> None:
    got = client.audio.transcriptions.create(model="base", file=CLIP, include=["logprobs"])
    assert got.logprobs
    data = b"".join(bytes(map(int, entry.bytes or [])) for entry in got.logprobs)
    assert data.decode() == " " + got.text
    assert "".join(entry.token or "" for entry in got.logprobs) == " " + got.text
    assert all(entry.logprob is not None and entry.logprob <= 0 for entry in got.logprobs)


def test_translations(client: openai.OpenAI) -> None:
    with pytest.deprecated_call():  # OpenAI ends its own translations
        plain = client.audio.translations.create(model="base", file=CLIP)
        verbose = client.audio.translations.create(
            model="base", file=CLIP, response_format="verbose_json"
        )
    assert "leisure to consider" in plain.text
    assert verbose.text == plain.text and verbose.segments
    assert isinstance(verbose.duration, float) and verbose.duration == 7.1
    assert verbose.model_dump()["task"] == "translate"


def test_options_reach_the_model(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    plain = create(model="base", file=CLIP, language="en").text
    assert create(model="base", file=CLIP, language="English").text == plain
    assert create(model="base", file=CLIP, extra_body={"languages": ["fr", "en"]}).text == plain
    # Told to write German, it does not write what it hears.
    assert create(model="base", file=CLIP, language="de").text != plain
    prompted = create(model="base", file=CLIP, prompt="mister john dashwood, MISTER DASHWOOD").text
    assert prompted != plain
    hot = create(model="base", file=CLIP, temperature=1.0).text
    assert hot == create(model="base", file=CLIP, temperature=1.0).text, "seeds are of the file"
    searched = create(model="base", file=CLIP, extra_body={"beam_size": 5, "patience": 1.5}).text
    assert "leisure to consider how much" in searched
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="base", file=CLIP, extra_body={"beam_size": 17})
    assert caught.value.param == "beam_size"
    strategy: Any = {"type": "server_vad", "threshold": 0.99, "silence_duration_ms": 50}
    assert create(model="base", file=CLIP, chunking_strategy=strategy).text
    assert create(model="base", file=CLIP, chunking_strategy="auto").text == plain


def test_keywords_are_favoured(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    heard_wrongly = DATA / "librivox-0880.wav"
    assert "ill-disposed" not in create(model="tiny.en", file=heard_wrongly).text
    # More than the prompt has room for, the one that is said last.
    many = [*(f"Barton{n}" for n in range(200)), "ill-disposed :3"]
    wanted: dict[str, Any] = {"keywords": many}
    assert "ill-disposed" in create(model="tiny.en", file=heard_wrongly, extra_body=wanted).text
    alone = wanted | {"keyword_boost": 0}
    assert "ill-disposed" not in create(model="tiny.en", file=heard_wrongly, extra_body=alone).text
    with pytest.raises(openai.BadRequestError, match="a keyword's weight is 0 to 10") as caught:
        create(model="tiny.en", file=heard_wrongly, extra_body={"keywords": ["Norland :11"]})
    assert caught.value.param == "keywords"


def test_models(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [m.id for m in models] == ["tiny.en", "base", "auto", *OPENAI_MODELS]
    assert all(model.object == "model" and model.owned_by == "murmur" for model in models)
    assert client.models.retrieve("whisper-1").id == "whisper-1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("large")


def test_twenty_at_once_each_get_their_own(client: openai.OpenAI) -> None:
    clips = sorted(DATA.glob("librivox-*.wav"))
    create = client.audio.transcriptions.create
    alone = {clip: create(model="tiny.en", file=clip).text for clip in clips}
    assert len(set(alone.values())) == len(clips)
    with ThreadPoolExecutor(20) as threads:
        together = threads.map(
            lambda clip: (clip, create(model="tiny.en", file=clip).text), clips * 4
        )
        for clip, text in together:
            assert text == alone[clip]


def test_the_page_names_every_field(cluster: Cluster) -> None:
    page = httpx2.get(f"{cluster.url}/openapi.json").json()
    form = page["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
    names = set(form["multipart/form-data"]["schema"]["properties"])
    assert {"file", "model", "timestamp_granularities[]", "include[]", "languages[]"} <= names
    assert httpx2.get(f"{cluster.url}/docs").status_code == 200
