"""What goes over the wire: bracketed lists, bad requests and their answers, byte by byte."""

import json
import re
import struct
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile

from tests.conftest import DATA
from tests.e2e.conftest import CLIP, KEY
from tests.support.cluster import Cluster

PATH = "/v1/audio/transcriptions"
CLIP_BYTES = CLIP.read_bytes()
FORM = "multipart/form-data; boundary=b"
FILE_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def send(cluster: Cluster, method: str = "POST", path: str = PATH, **request: Any) -> Any:
    headers = {"authorization": f"Bearer {KEY}"} | request.pop("headers", {})
    url = f"{cluster.url}{path}"
    return httpx2.request(method, url, headers=headers, timeout=60, **request)


def form(cluster: Cluster, file: bytes = CLIP_BYTES, route: str = "", **fields: Any) -> Any:
    files = {"file": ("a.wav", file)}
    data = {"model": "tiny.en"} | fields
    return send(cluster, path=f"/v1/audio/{route}" if route else PATH, data=data, files=files)


def raw(cluster: Cluster, body: bytes, content_type: str) -> Any:
    return send(cluster, content=body, headers={"content-type": content_type})


def check_error(
    answer: Any, status: int, param: str | None = None, code: str | None = None, says: str = ""
) -> dict[str, Any]:
    """OpenAI's error body, whole, with nothing of ours in it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert error["type"] in ("invalid_request_error", "rate_limit_error", "server_error")
    assert says in error["message"]
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    assert not re.search(r"Traceback|File \"|/tmp/|/proc/|\.py\b|object at 0x", answer.text)
    return error


def test_lists_come_with_brackets_and_without(cluster: Cluster) -> None:
    for name in ("timestamp_granularities[]", "timestamp_granularities"):
        fields = {name: ["segment"], "response_format": "verbose_json"}
        assert form(cluster, **fields).json()["segments"]
    assert form(cluster, **{"include[]": ["logprobs"]}).json()["logprobs"]
    assert form(cluster, **{"languages[]": ["en"], "keywords[]": ["Dashwood", "power"]}).json()[
        "text"
    ]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"language": "xx"}, "language", "unsupported language 'xx'"),
        ({"language": "German"}, "language", "unsupported language 'German'"),
        ({"languages[]": ["en", "fr"]}, "languages", "unsupported language 'fr'"),
        ({"language": "en", "languages[]": ["en"]}, "languages", "either"),
        ({"temperature": "hot"}, "temperature", "invalid temperature"),
        ({"temperature": "1.5"}, "temperature", "invalid temperature"),
        ({"temperature": "nan"}, "temperature", "invalid temperature"),
        ({"temperature": "0.001"}, "temperature", "0.01"),
        ({"stream": "perhaps"}, "stream", "invalid stream"),
        ({"response_format": "xml"}, "response_format", "invalid response_format"),
        ({"response_format": "diarized_json"}, "response_format", "not supported"),
        ({"timestamp_granularities[]": ["word"]}, "timestamp_granularities", "verbose_json"),
        ({"timestamp_granularities[]": ["line"]}, "timestamp_granularities", "invalid"),
        ({"include[]": ["everything"]}, "include", "invalid include"),
        ({"include[]": ["logprobs"], "response_format": "text"}, "include", "json"),
        ({"known_speaker_names[]": ["Ann"]}, "known_speaker_names", "not supported"),
        ({"known_speaker_references[]": ["data:,"]}, "known_speaker_references", "not supp"),
        ({"chunking_strategy": "manual"}, "chunking_strategy", "invalid"),
        ({"chunking_strategy[type]": "semantic"}, "chunking_strategy", "invalid"),
        (
            {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "2"},
            "chunking_strategy",
            "invalid",
        ),
        ({"context_chunks": "0"}, "context_chunks", "invalid"),
        ({"num_beams": "5"}, "num_beams", "unknown field 'num_beams'"),
        ({"prompt": ["a", "b"]}, "prompt", "given twice"),
    ],
)
def test_a_field_that_cannot_be_is_named(
    cluster: Cluster, fields: dict[str, Any], param: str, says: str
) -> None:
    check_error(form(cluster, **fields), 400, param, says=says)


def test_the_language_alone(cluster: Cluster) -> None:
    answer = form(cluster, route="detect-language", model="base")
    body = answer.json()
    assert answer.status_code == 200 and answer.headers["x-audio-seconds"] == "7.100"
    assert body["language"] == "en" and body["probability"] > 0.9 and body["duration"] == 7.1
    assert len(body["probabilities"]) == 99
    assert sum(body["probabilities"].values()) == pytest.approx(1.0, abs=0.01)
    among = form(cluster, route="detect-language", model="base", languages="de,fr").json()
    assert set(among["probabilities"]) == {"de", "fr"}
    for fields, param in (({"model": "tiny.en"}, "model"), ({"prompt": "a"}, "prompt")):
        asked = {"model": "base"} | fields
        check_error(form(cluster, route="detect-language", **asked), 400, param)


def test_several_languages_are_listed(cluster: Cluster) -> None:
    fields = {"model": "base", "multilingual": "true", "languages": "en,de"}
    body = form(cluster, response_format="verbose_json", **fields).json()
    assert {segment["language"] for segment in body["segments"]} == {"en"}
    assert form(cluster, **fields).json()["languages"] == [{"code": "en"}]


def test_subtitles_within_limits_of_the_caller(cluster: Cluster) -> None:
    limits = {"max_line_width": "16", "max_line_count": "1", "highlight_words": "true"}
    text = form(cluster, response_format="vtt", **limits).text
    lines = [line for cue in text.split("\n\n")[1:] for line in cue.splitlines()[1:]]
    assert lines and all(len(line.replace("<u>", "").replace("</u>", "")) <= 16 for line in lines)
    assert "<u>leisure</u>" in text
    check_error(form(cluster, max_line_count="0"), 400, "max_line_count", says="invalid")


def test_what_must_be_given(cluster: Cluster) -> None:
    missing = "missing_required_parameter"
    without_file = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx\r\n--b--\r\n'
    check_error(raw(cluster, without_file, FORM), 400, "file", missing)
    answer = send(cluster, files={"file": ("a.wav", CLIP_BYTES)})
    check_error(answer, 400, "model", missing)
    answer = send(cluster, data={"model": "tiny.en"}, files={"file": (None, "a.wav")})
    check_error(answer, 400, "file", "invalid_audio")


def test_unknown_models_and_routes(cluster: Cluster) -> None:
    check_error(form(cluster, model="large"), 404, "model", "model_not_found", "large")
    check_error(send(cluster, "GET", "/v1/models/large"), 404, "model", "model_not_found")
    check_error(send(cluster, "GET", "/v1/audio/speech"), 404)
    check_error(send(cluster, "GET", PATH), 405)


def test_translation_needs_a_model_that_translates(cluster: Cluster) -> None:
    files = {"file": ("a.wav", CLIP_BYTES)}
    answer = send(cluster, path="/v1/audio/translations", data={"model": "tiny.en"}, files=files)
    check_error(answer, 400, "model", says="does not translate; these do: base")


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic abc", f"Bearer {KEY}x"])
def test_keys(cluster: Cluster, key: str) -> None:
    headers = {"authorization": key}
    for method, path in (("POST", PATH), ("GET", "/v1/models")):
        answer = send(cluster, method, path, headers=headers)
        check_error(answer, 401, code="invalid_api_key")
    assert send(cluster, "GET", "/healthz", headers=headers).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", FORM, 400),
        (b"nothing of the kind", FORM, 400),
        (CLIP_BYTES, "multipart/form-data", 400),
        (FILE_PART, "multipart/form-data; boundary=b; charset=undefined", 400),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", FORM, 400),
        (FILE_PART + b"RIFF", FORM, 400),
        (CLIP_BYTES, "audio/wav", 415),
        (b'{"model": "tiny.en"}', "application/json", 415),
        (b"model=tiny.en", "application/x-www-form-urlencoded", 415),
    ],
)
def test_bodies_that_are_no_form(
    cluster: Cluster, body: bytes, content_type: str, status: int
) -> None:
    check_error(raw(cluster, body, content_type), status)


def test_two_files_and_a_file_in_another_field(cluster: Cluster) -> None:
    two = [("file", ("a.wav", CLIP_BYTES)), ("file", ("b.wav", CLIP_BYTES))]
    check_error(send(cluster, data={"model": "tiny.en"}, files=two), 400, "file", says="twice")
    other = {"audio": ("a.wav", CLIP_BYTES)}
    check_error(send(cluster, data={"model": "tiny.en"}, files=other), 400, "audio", says="file")


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(
    ("content", "status", "code", "says"),
    [
        (b"", 400, "invalid_audio", "0 bytes"),
        (b"This is no audio at all. " * 100, 400, "invalid_audio", "not audio"),
        (CLIP_BYTES[:44], 422, "audio_truncated", "truncated"),
    ],
)
def test_audio_that_cannot_be_used(
    cluster: Cluster, content: bytes, status: int, code: str, says: str, stream: str
) -> None:
    check_error(form(cluster, content, stream=stream), status, "file", code, says)


def test_audio_that_breaks_off_is_answered_with_a_warning(cluster: Cluster) -> None:
    cut = CLIP_BYTES[: len(CLIP_BYTES) * 9 // 10]
    body = form(cluster, cut).json()
    assert "leisure to consider" in body["text"]
    [warning] = body["warnings"]
    assert warning["code"] == "truncated"
    assert warning["start"] == pytest.approx(6.39, abs=0.02)
    assert warning["end"] == pytest.approx(7.1, abs=0.02)


def test_silence_is_empty_text(cluster: Cluster, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(48_000, np.int16), 16_000)
    content = (tmp_path / "silence.wav").read_bytes()
    answer = form(cluster, content).json()
    assert answer["text"] == "" and answer["languages"] == []
    assert answer["usage"] == {"type": "duration", "seconds": 3.0}
    assert form(cluster, content, response_format="vtt").text == "WEBVTT\n\n"
    done = json.loads(form(cluster, content, stream="true").text.strip()[6:])
    assert done["type"] == "transcript.text.done" and done["text"] == ""


def test_uploads_and_durations_are_bounded(cluster: Cluster) -> None:
    too_large = b"\0" * 32_000_000
    check_error(form(cluster, too_large), 413, code="upload_too_large")

    def chunks() -> Any:  # of unknown length
        yield FILE_PART
        for _ in range(64):
            yield b"\0" * 500_000

    answer = send(cluster, content=chunks(), headers={"content-type": FORM})
    check_error(answer, 413, code="upload_too_large")
    header = bytearray(CLIP_BYTES[:1_000])
    at = header.index(b"fmt ") + 8
    header[at : at + 16] = struct.pack("<HHIIHH", 1, 1, 1_000, 1_000, 1, 8)
    long = bytes(header) + b"\x80" * 1_900_000  # 1,900 s at 1 kHz and 8 bit
    check_error(form(cluster, patch_size(long)), 413, "file", "audio_too_long")


def patch_size(wav: bytes) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", len(wav) - at - 4) + wav[at + 4 :]


def test_request_ids_come_back(cluster: Cluster) -> None:
    answer = form(cluster)
    assert len(answer.headers["x-request-id"]) >= 16
    again = send(
        cluster,
        data={"model": "tiny.en"},
        files={"file": ("a.wav", CLIP_BYTES)},
        headers={"x-request-id": "mine-123"},
    )
    assert again.headers["x-request-id"] == "mine-123"
    mine = [record for record in cluster.records() if record["id"] == "mine-123"]
    assert len(mine) == 1, "one line a request"
    assert mine[0]["outcome"] == "ok" and mine[0]["tier"] == "tiny.en"
    assert mine[0]["audio_s"] == 7.1 and mine[0]["chunks"] == 1 and mine[0]["retried"] == 0
    assert {"read_s", "vad_s", "held_s", "hops_s", "waiting_s", "prefill_s", "decode_s"} <= set(
        mine[0]
    )


def test_the_server_says_where_the_time_went(cluster: Cluster) -> None:
    timing = form(cluster).headers["server-timing"]
    stages = {part.split(";dur=")[0]: float(part.split(";dur=")[1]) for part in timing.split(", ")}
    assert set(stages) == {"read", "vad", "held", "hops", "waiting", "prefill", "decode"}
    assert all(ms >= 0 for ms in stages.values())


def test_ready_means_that_chunks_are_decoded(cluster: Cluster) -> None:
    deadline = time.monotonic() + 20
    while True:  # an idle tier is asked to decode something, of which the next call hears
        answer = send(cluster, "GET", "/readyz")
        if answer.json()["tiers"] == {"tiny.en": True, "base": True}:
            break
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    assert answer.status_code == 200 and answer.json()["status"] == "ready"


def test_refusals_are_counted_and_logged(cluster: Cluster) -> None:
    def refuse(request_id: str, **more: Any) -> None:
        headers = {"x-request-id": request_id} | more.pop("headers", {})
        assert send(cluster, headers=headers, **more).status_code >= 400

    files = {"file": ("a.wav", CLIP_BYTES)}
    refuse("no-key", headers={"authorization": ""})
    refuse("no-model", files=files)
    refuse("no-such-model", files=files, data={"model": "large"})
    outcomes = {record["id"]: record["outcome"] for record in cluster.records()}
    assert outcomes["no-key"] == "invalid_api_key"
    assert outcomes["no-model"] == "missing_required_parameter"
    assert outcomes["no-such-model"] == "unknown_model"


def test_other_containers_are_read(cluster: Cluster, tmp_path: Path) -> None:
    pcm, rate = soundfile.read(CLIP, dtype="int16")
    for suffix in ("flac", "ogg", "mp3"):
        soundfile.write(tmp_path / f"clip.{suffix}", pcm, rate)
        text = form(cluster, (tmp_path / f"clip.{suffix}").read_bytes()).json()["text"]
        assert "leisure to consider" in text
    assert (DATA / "librivox-0870.wav").exists()
