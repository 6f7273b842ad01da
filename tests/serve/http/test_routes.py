"""The routes over an ingress that hears nothing: what is asked, what answers carry."""

from dataclasses import replace
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from deployments.entrance.canaries import Canary
from deployments.messages import TranscriptSegment
from deployments.options import TranscribeOptions
from serve.http.routes import build_api
from tests.support.deaf import Deaf

SPEECH = (TranscriptSegment(0.5, 2.0, " Olá.", (1,), 0.0, -0.1, 1.0, 0.0, "base", (-0.1,)),)
TEXT_FORMATS = ("text", "srt", "vtt")


@pytest.fixture
def ingress() -> Deaf:
    return Deaf(SPEECH)


@pytest.fixture
def http(ingress: Deaf) -> TestClient:
    return TestClient(build_api(ingress))


def post(http: TestClient, route: str = "transcriptions", **fields: Any) -> Any:
    data = {"model": "base", **fields}
    return http.post(f"/v1/audio/{route}", data=data, files={"file": ("a.wav", b"RIFF")})


@pytest.mark.parametrize("kind", TEXT_FORMATS)
def test_text_formats_are_plain_text_and_say_their_seconds(http: TestClient, kind: str) -> None:
    answer = post(http, response_format=kind.upper())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-audio-seconds"] == "12.346"
    assert "Olá." in answer.content.decode()


def test_json_says_its_seconds(http: TestClient) -> None:
    answer = post(http)
    assert answer.headers["x-audio-seconds"] == "12.346"
    body = answer.json()
    assert (body["text"], body["duration"]) == ("Olá.", 12.346)
    assert body["usage"] == {"type": "duration", "seconds": 12.346}
    assert body["languages"] == [{"code": "pt"}]


class Vocabulary:
    """Of a tier."""

    async def vocabulary(self) -> tuple[bytes, ...]:
        return (b"", b" Ol\xc3\xa1.")


def test_tokens_are_named_by_the_model_that_gave_them(http: TestClient, ingress: Deaf) -> None:
    """So no other model is tried on such a request."""
    ingress.rules = replace(ingress.rules, canaries={"base": Canary("other", 1.0)})
    ingress.tiers = {"base": Vocabulary()}  # type: ignore[dict-item]
    body = post(http, **{"include[]": "logprobs"}).json()
    assert [each["token"] for each in body["logprobs"]] == [" Olá."]
    assert post(http).status_code == 200
    with_names, without = ingress.went_by
    assert with_names is not None and not with_names.canaries
    assert without == ingress.rules


def test_where_nothing_was_heard_there_is_no_language() -> None:
    http = TestClient(build_api(Deaf(())))
    assert post(http).json()["languages"] == []
    verbose = post(http, response_format="verbose_json").json()
    assert (verbose["language"], verbose["text"], verbose["segments"]) == ("", "", [])


def test_empty_fields_are_as_none(http: TestClient, ingress: Deaf) -> None:
    names = ("language", "languages[]", "prompt", "keywords", "response_format", "temperature")
    more = ("stream", "include[]", "chunking_strategy", "timestamp_granularities[]", "quality")
    also = ("priority", "deadline_s", "context_chunks", "known_speaker_names[]")
    assert post(http, **dict.fromkeys((*names, *more, *also), "")).status_code == 200
    assert ingress.asked == [(b"RIFF", TranscribeOptions(model="base"))]


def test_translations_may_say_how_to_listen(http: TestClient, ingress: Deaf) -> None:
    assert post(http, "translations", language="pt-BR", keywords="Lisboa").status_code == 200
    asked = ingress.asked[0][1]
    assert (asked.task, asked.language, asked.keywords) == ("translate", "pt-BR", ("Lisboa",))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/audio/speech", 404, "not_found"),
        ("POST", "/v2", 404, "not_found"),
        ("GET", "/v1/audio/transcriptions", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/audio/transcriptions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("HEAD", "/v1/audio/transcriptions", 405, "method_not_allowed"),
    ],
)
def test_other_routes_and_methods_have_openais_error(
    http: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert ("allow" in answer.headers) == (status == 405)
    if method != "HEAD":
        error = answer.json()["error"]
        assert error["code"] == code
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/models/auto", "/nothing"])
def test_head_is_get_without_a_body(http: TestClient, path: str) -> None:
    get, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert dict(head.headers) == dict(get.headers)


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/models/auto"])
def test_a_slash_at_the_end_changes_nothing(http: TestClient, path: str) -> None:
    answer = http.get(f"{path}/", follow_redirects=False)
    assert (answer.status_code, answer.json()) == (200, http.get(path).json())


def test_an_upload_may_go_to_a_path_with_a_slash_at_its_end(http: TestClient) -> None:
    assert post(http, "transcriptions/").json()["text"] == "Olá."


def test_a_prefix_with_a_slash_is_the_page(ingress: Deaf) -> None:
    http = TestClient(build_api(ingress), root_path="/speech")
    assert http.get("/speech/").headers["content-type"].startswith("text/html")
    assert http.get("/speech/v1/models/").status_code == 200


def test_head_has_the_status_and_no_body(http: TestClient) -> None:
    answer = http.head("/v1/audio/transcriptions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"nope": ""}, "nope", "unknown_parameter"),
        ({"model": ""}, "model", "missing_required_parameter"),
        ({"model": "x" * 300}, "model", "invalid_value"),
        ({"languages": "en", "language": "de"}, "languages", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named(
    http: TestClient, fields: dict[str, str], param: str, code: str
) -> None:
    answer = post(http, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


def test_a_body_that_was_cut_off_is_told_as_that(http: TestClient) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nRIFF'
    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = http.post("/v1/audio/transcriptions", content=head, headers=kind)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "malformed_body")
    assert "ends before its last boundary" in error["message"]


@pytest.mark.parametrize("kind", ["json", "verbose_json", *TEXT_FORMATS])
def test_openais_client_reads_the_answers(http: TestClient, kind: Any) -> None:
    client = openai.OpenAI(base_url="http://testserver/v1", api_key="k", http_client=http)
    got: Any = client.audio.transcriptions.create(
        model="base", file=("a.wav", b"RIFF"), response_format=kind
    )
    if kind in TEXT_FORMATS:
        assert isinstance(got, str) and "Olá." in got
        return
    assert got.text == "Olá." and got.usage.seconds == 12.346
    if kind == "verbose_json":
        assert (got.language, got.duration, got.segments[0].start) == ("portuguese", 12.346, 0.5)


class TestTextAlone:
    """`POST /transcribe`."""

    def test_a_body_is_the_file_whatever_its_type(self, http: TestClient, ingress: Deaf) -> None:
        for kind in ("application/x-www-form-urlencoded", "audio/wav", ""):
            headers = {"content-type": kind} if kind else {}
            answer = http.post("/transcribe?language=pt", content=b"RIFF", headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"text": "Olá."})
        assert answer.headers["x-audio-seconds"] == "12.346"
        options = TranscribeOptions(model="whisper-1", language="pt")
        assert ingress.asked == [(b"RIFF", options)] * 3

    def test_a_form_may_name_the_model(self, http: TestClient, ingress: Deaf) -> None:
        for data in ({}, {"model": ""}, {"model": "base"}):
            answer = http.post("/transcribe", data=data, files={"file": ("a", b"RIFF")})
            assert answer.json() == {"text": "Olá."}
        assert [options.model for _, options in ingress.asked] == ["whisper-1"] * 2 + ["base"]

    @pytest.mark.parametrize(
        ("query", "param", "code"),
        [
            ("response_format=srt", "response_format", "unsupported"),
            ("stream=true", "stream", "unsupported"),
            ("nope=1", "nope", "unknown_parameter"),
            ("temperature=hot", "temperature", "invalid_value"),
            ("timestamp_granularities=word", "timestamp_granularities", "unknown_parameter"),
        ],
    )
    def test_what_it_has_not_is_refused(
        self, http: TestClient, query: str, param: str, code: str
    ) -> None:
        answer = http.post(f"/transcribe?{query}", content=b"RIFF")
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code)

    def test_too_large_a_body_is_refused(self, http: TestClient, ingress: Deaf) -> None:
        for content in (b"a" * 10_001, (b"a" * 1000 for _ in range(11))):
            answer = http.post("/transcribe", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "upload_too_large"
        assert ingress.asked == []


class TestSubtitles:
    """`POST /v1/audio/subtitles`."""

    WORDS = [
        {"word": "Olá,", "start": 0.5, "end": 1.0, "probability": 0.9},
        {"word": "mundo", "start": 1.0, "end": 1.5},
    ]

    def ask(self, http: TestClient, **body: Any) -> Any:
        segment = {"start": 0.5, "end": 2.0, "text": "Olá, mundo!", "words": self.WORDS}
        return http.post("/v1/audio/subtitles", json={"segments": [segment], **body})

    def test_words_keep_what_stands_between_them(self, http: TestClient) -> None:
        answer = self.ask(http, format="srt")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.text == "1\n00:00:00,500 --> 00:00:01,500\nOlá, mundo!\n\n"
        lines = self.ask(http, format="vtt", max_line_width=5, max_line_count=1).text
        assert lines.startswith("WEBVTT\n\n") and "\nOlá,\n" in lines and "\nmundo!\n" in lines
        assert self.ask(http, format="tsv").text.endswith("500\t2000\tOlá, mundo!\n")
        assert len(self.ask(http, format="ctm").text.splitlines()) == 2

    def test_a_segment_without_words_is_a_cue(self, http: TestClient) -> None:
        segments = [{"start": 0, "end": 1, "text": "  日本語 "}]
        answer = self.ask(http, format="srt", segments=segments)
        assert answer.text == "1\n00:00:00,000 --> 00:00:01,000\n日本語\n\n"

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"format": "docx"}, "format"),
            ({"format": "srt", "segments": [{"start": -1, "end": 1, "text": ""}]}, "segments.0"),
            ({"format": "srt", "nope": 1}, "nope"),
            ({}, "format"),
        ],
    )
    def test_a_wrong_body_is_refused_by_name(
        self, http: TestClient, body: dict[str, Any], param: str
    ) -> None:
        answer = self.ask(http, **body)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"].startswith(param)

    def test_what_is_no_json_is_refused(self, http: TestClient) -> None:
        answer = http.post("/v1/audio/subtitles", content=b"1\n00:00")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
