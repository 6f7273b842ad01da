"""The routes over an ingress that hears nothing: what is asked, what answers carry."""

from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from deployments.entrance.admission import Admission, Ticket
from deployments.entrance.ingress import Done
from deployments.entrance.remote import Work
from deployments.messages import Transcript, TranscriptSegment
from deployments.options import TranscribeOptions
from serve.http.auth import Auth
from serve.http.routes import HttpIngress, build_api

SPEECH = (TranscriptSegment(0.5, 2.0, " Olá.", (1,), 0.0, -0.1, 1.0, 0.0, "base", (-0.1,)),)
TEXT_FORMATS = ("text", "srt", "vtt")


class Deaf(HttpIngress):
    """Remembers what it is asked, and gives a transcript of 12.3456 s."""

    def __init__(self, segments: tuple[TranscriptSegment, ...]) -> None:
        self.asked: list[tuple[Any, TranscribeOptions]] = []
        self.admission = Admission(9, 9.0)
        self.tiers, self.aliases = {}, {}
        self._auth, self._max_upload_bytes = Auth(()), 10_000
        self._segments = segments

    def account_refusal(self, outcome: str, request_id: str) -> None:
        """There are no metrics without Serve."""

    async def run(
        self,
        source: Any,
        options: TranscribeOptions,
        partial: bool = False,
        request_id: str = "",
        ticket: Ticket | None = None,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        with ticket or self.admission.admit():
            self.asked.append((source, options))
            language = "pt" if self._segments else ""
            text = "".join(s.text for s in self._segments).strip()
            yield list(self._segments)
            yield Done(Transcript(text, language, 12.3456, options.task, self._segments), Work())


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
    ],
)
def test_other_routes_and_methods_have_openais_error(
    http: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = http.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert ("allow" in answer.headers) == (status == 405)


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
