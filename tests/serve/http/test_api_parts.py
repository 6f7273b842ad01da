"""Bodies, events, errors and keys, without a cluster."""

import json
import pickle
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from starlette.requests import Request

from deployments import errors
from deployments.messages import Transcript, TranscriptSegment
from engine import RequestError
from serve.http.answers import EventStream, TokenNames, render_body
from serve.http.auth import Auth, UnauthorizedError
from serve.http.errors import to_http_error
from serve.settings.api_keys import hash_key, key_sums
from serve.settings.deployments import sections_of
from serve.settings.loading import load_settings
from serve.settings.serve_config import serve_config

TIMESTAMP = 50_364


def segment(start_s: float, text: str, tokens: tuple[int, ...] = ()) -> TranscriptSegment:
    logprobs = tuple(-0.1 * n for n in range(len(tokens)))
    return TranscriptSegment(start_s, start_s + 1, text, tokens, 0.0, -0.1, 1.0, 0.0, "m", logprobs)


def transcript(*segments: TranscriptSegment) -> Transcript:
    text = "".join(part.text for part in segments).strip()
    return Transcript(text, "de", 12.5, "transcribe", segments)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix("data: ")) for part in text.strip().split("\n\n")]


@pytest.mark.parametrize("kind", ["json", "text", "verbose_json"])
def test_deltas_join_to_the_text_whatever_blanks_segments_have(kind: Any) -> None:
    segments = [segment(n, text) for n, text in enumerate([" One", " ", " two. ", "三", " "])]
    stream = EventStream(kind, None)
    whole = transcript(*segments)
    wire = stream.begin() + "".join(stream.segments([s]) for s in segments) + stream.done(whole)
    got = events(wire)
    deltas = [event["delta"] for event in got if event["type"] == "transcript.text.delta"]
    assert "".join(deltas) == got[-1]["text"] == whole.text == "One  two. 三"
    assert all(deltas)


def test_logprobs_leave_out_timestamps_and_keep_bytes() -> None:
    names = TokenNames([b" Gr", b"\xc3", b"\xbc", b"n"])
    spoken = segment(0.0, " Grün", (TIMESTAMP, 0, 1, 2, 3, TIMESTAMP + 50))
    got = json.loads(render_body(transcript(spoken), "json", (), names))["logprobs"]
    assert [entry["bytes"] for entry in got] == [[32, 71, 114], [195], [188], [110]]
    assert [entry["logprob"] for entry in got] == pytest.approx([-0.1, -0.2, -0.3, -0.4])
    assert got[1]["token"] == "\ufffd"


def test_segments_are_null_where_only_words_are_asked_for() -> None:
    whole = transcript(segment(0.0, " Ja."))
    assert json.loads(render_body(whole, "verbose_json", ("word",), None))["segments"] is None
    assert json.loads(render_body(whole, "verbose_json", (), None))["segments"]


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (errors.NotAudioError("not audio: x"), 400, "invalid_audio", "file"),
        (errors.AudioTooLongError("long"), 413, "audio_too_long", "file"),
        (errors.TruncatedAudioError("cut"), 422, "audio_truncated", "file"),
        (errors.AudioDecodeTimeoutError("slow"), 422, "audio_decode_timeout", "file"),
        (errors.UnknownModelError("x"), 404, "model_not_found", "model"),
        (errors.OptionError("no", "language"), 400, "invalid_value", "language"),
        (errors.OverloadedError("much", 2.2), 429, "overloaded", None),
        (errors.DeadlineError(5.0), 504, "deadline_exceeded", None),
        (errors.StoppedError("an operator stopped it"), 410, "stopped", None),
        (errors.ChunkFailedError(1.0, 2.0, 2), 500, "chunk_failed", None),
        (errors.TierUnavailableError("gone"), 503, "unavailable", "model"),
        (errors.DeploymentError("ffmpeg at /usr/bin"), 500, "internal_error", None),
        (RequestError("no"), 400, None, None),
        (KeyError("/secret/path.py"), 500, "internal_error", None),
    ],
)
def test_each_error_has_its_status(
    error: Exception, status: int, code: str | None, param: str | None
) -> None:
    answer = to_http_error(error)
    assert (answer.status, answer.code, answer.param) == (status, code, param)
    assert "/" not in answer.message
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and to_http_error(again) == answer


def test_of_a_replicas_error_only_its_own_words_are_told() -> None:
    """Ray's exception has the replica's stack in its words."""
    try:
        raise RequestError("unsupported language 'fr'")
    except RequestError as cause:
        remote = RayTaskError("decode", "Traceback: File /secret.py", cause).as_instanceof_cause()
    assert "/secret.py" in str(remote)
    answer = to_http_error(remote)
    assert (answer.status, answer.message) == (400, "unsupported language 'fr'")


def test_events_are_ascii_so_that_no_client_splits_them() -> None:
    wire = EventStream("json", None).segments([segment(0.0, " a\u2028b\x85c\nd")])
    assert wire.isascii() and wire.count("\n") == 2
    assert events(wire)[0]["delta"] == "a\u2028b\x85c\nd"


def test_who_may_come_back_is_told() -> None:
    assert to_http_error(errors.OverloadedError("much", 2.2)).headers == {"retry-after": "3"}
    assert "retry-after" in to_http_error(errors.TierUnavailableError("gone")).headers
    assert to_http_error(errors.DeadlineError(5.0)).headers == {"x-should-retry": "false"}


def request(authorization: str) -> Request:
    headers = [(b"authorization", authorization.encode())] if authorization else []
    return Request({"type": "http", "headers": headers})


def test_keys() -> None:
    Auth(()).check(request(""))
    auth = Auth((hash_key("one"), hash_key("two")))
    auth.check(request("Bearer two"))
    auth.check(request("bearer one"))
    auth.check(request("Token two"))
    for wrong in ("", "two", "Bearer", "Bearer ", "Bearer three", "Token three", "Basic two"):
        with pytest.raises(UnauthorizedError):
            auth.check(request(wrong))


def test_serve_gets_the_sums_of_keys_and_never_the_keys() -> None:
    settings = load_settings(None, {"MURMUR__AUTH__API_KEYS": "[sk-secret]"})
    config = serve_config(settings)
    assert "sk-secret" not in json.dumps(config)
    (application,) = config["applications"]
    (ingress,) = (d for d in application["deployments"] if d["name"] == "Ingress")
    assert ingress["user_config"]["auth"] == {"api_keys_sha256": [hash_key("sk-secret")]}
    again = load_settings(None, {}, sections_of(ingress["user_config"]))
    assert key_sums(again.auth) == key_sums(settings.auth)
    assert again.tiers == settings.tiers
