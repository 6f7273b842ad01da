"""Deepgram's protocol on a real cluster: its own client, and raw sockets."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import numpy as np
import pytest
from deepgram import DeepgramClient, DeepgramClientEnvironment
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import read_pcm
from tests.e2e.conftest import CLIP, KEY
from tests.e2e.test_live import speech
from tests.support.cluster import Cluster
from tests.support.live_text import is_right

# The client's own use of its WebSocket library.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RAW = "model=tiny.en&encoding=linear16&sample_rate=16000"
Message = dict[str, Any]


@pytest.fixture
def deepgram(cluster: Cluster) -> Iterator[DeepgramClient]:
    with httpx.Client(timeout=120) as connections:
        yield client_of(cluster, KEY, connections)


def client_of(cluster: Cluster, key: str, connections: httpx.Client) -> DeepgramClient:
    live = cluster.url.replace("http", "ws")
    environment = DeepgramClientEnvironment(
        base=cluster.url, production=live, agent=live, agent_rest=cluster.url
    )
    return DeepgramClient(api_key=key, environment=environment, httpx_client=connections)


@contextmanager
def socket_of(cluster: Cluster, query: str = RAW, **options: Any) -> Iterator[ClientConnection]:
    url = f"{cluster.url.replace('http', 'ws')}/v1/listen?{query}"
    options.setdefault("additional_headers", {"authorization": f"Token {KEY}"})
    with connect(url, max_size=None, open_timeout=60, **options) as socket:
        yield socket


def say(socket: ClientConnection, pcm: np.ndarray, block: int = 1_600) -> None:
    for start in range(0, len(pcm), block):
        socket.send(pcm[start : start + block].astype("<i2").tobytes())


def control(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def until(socket: ClientConnection, kind: str, **fields: Any) -> list[Message]:
    """All messages up to the next one of a type whose fields have these values."""
    found: list[Message] = []
    while True:
        found.append(json.loads(socket.recv(timeout=60)))
        last = found[-1]
        if last["type"] == kind and all(last.get(name) == value for name, value in fields.items()):
            return found


def text_of(messages: list[Message]) -> str:
    """The final results, one after another, as Deepgram's documents tell clients to join them."""
    final = (m for m in messages if m["type"] == "Results" and m["is_final"])
    return " ".join(m["channel"]["alternatives"][0]["transcript"] for m in final).strip()


def test_the_official_client_hears(deepgram: DeepgramClient) -> None:
    """Messages of a session in real time: order, fields and values."""
    heard: list[Any] = []
    with deepgram.listen.v1.connect(
        model="tiny.en",
        language="en-US",
        encoding="linear16",
        sample_rate=16_000,
        interim_results=True,
        endpointing=300,
        utterance_end_ms=1000,
        vad_events=True,
        smart_format=True,
        keyterm=["Dashwood"],
    ) as connection:
        connection.on(EventType.MESSAGE, heard.append)
        reader = threading.Thread(target=connection.start_listening)
        reader.start()
        pcm, began = np.concatenate([speech(16_000), np.zeros(16_000, np.int16)]), time.monotonic()
        for start in range(0, len(pcm), 1_600):
            time.sleep(max(0.0, began + start / 16_000 - time.monotonic()))
            connection.send_media(pcm[start : start + 1_600].tobytes())
        connection.send_close_stream()
        reader.join(60)
    kinds = [each.type for each in heard]
    assert kinds[0] == "SpeechStarted" and kinds[-1] == "Metadata"
    assert kinds.count("UtteranceEnd") == kinds.count("Metadata") == 1
    results = [each for each in heard if each.type == "Results"]
    interim = [each for each in results if not each.is_final]
    final = [each for each in results if each.is_final]
    assert interim and not any(each.speech_final for each in interim)
    assert final[-1].speech_final and not final[-1].from_finalize
    assert is_right(" ".join(each.channel.alternatives[0].transcript for each in final))
    words = [word for each in final for word in each.channel.alternatives[0].words]
    assert words[-1].punctuated_word == "them." and words[-1].word == "them"
    assert "Dashwood" in [word.punctuated_word for word in words]
    for word, after in zip(words, words[1:], strict=False):
        assert word.start <= word.end <= after.end and 0.0 < word.confidence <= 1.0
    assert 0.3 < words[0].start < 1.5 and abs(words[-1].end - 7.4) < 0.6
    ends = [each.start + each.duration for each in final]
    starts = [each.start for each in final]
    assert starts[1:] == pytest.approx(ends[:-1], abs=2e-3), "results follow one another"
    assert final[0].metadata.model_info.name == "tiny.en"
    end = next(each for each in heard if each.type == "UtteranceEnd")
    assert end.last_word_end == pytest.approx(words[-1].end, abs=0.01)
    metadata = heard[-1]
    assert metadata.duration == pytest.approx(len(pcm) / 16_000, abs=0.05)
    assert metadata.request_id == final[0].metadata.request_id and metadata.channels == 1


def test_finalize_tells_all_at_once(cluster: Cluster) -> None:
    with socket_of(cluster, f"{RAW}&endpointing=false") as socket:
        say(socket, speech(16_000)[: 4 * 16_000])
        control(socket, "Finalize")
        first = until(socket, "Results", from_finalize=True)
        assert "Dashwood" in text_of(first) and not first[-1]["speech_final"]
        control(socket, "KeepAlive")
        say(socket, speech(16_000)[4 * 16_000 :])
        control(socket, "Finalize")
        second = until(socket, "Results", from_finalize=True)
        control(socket, "Finalize")
        (nothing,) = until(socket, "Results", from_finalize=True)
        assert nothing["channel"]["alternatives"] == [
            {"transcript": "", "confidence": 0.0, "words": []}
        ]
        control(socket, "CloseStream")
        last = until(socket, "Metadata")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
    assert is_right(text_of([*first, *second, *last]))


def test_long_speech_becomes_several_results(cluster: Cluster) -> None:
    """Without interim results too, text does not wait for a pause."""
    pcm = np.concatenate([read_pcm(CLIP), read_pcm(CLIP)])
    with socket_of(cluster, f"{RAW}&endpointing=2000") as socket:
        say(socket, pcm)
        control(socket, "CloseStream")
        messages = until(socket, "Metadata")
    results = [m for m in messages if m["type"] == "Results"]
    assert all(m["is_final"] for m in results) and len(results) >= 1, messages
    words = text_of(messages)
    assert words.count("Dashwood") == 2 and words.count("prudently") == 2, words


def test_other_encodings_and_languages(cluster: Cluster) -> None:
    pcm = speech(8_000)
    mulaw = (~(np.where(pcm < 0, 128, 0) | _mulaw_bits(pcm))).astype(np.uint8)
    with socket_of(cluster, "model=nova-3&language=multi&encoding=mulaw") as socket:
        for start in range(0, len(mulaw), 800):
            socket.send(mulaw[start : start + 800].tobytes())
        socket.send(b"")  # as old clients end
        messages = until(socket, "Metadata")
    final = [m for m in messages if m["type"] == "Results"]
    assert is_right(text_of(messages), n_wrong=4)
    assert final[-1]["channel"]["alternatives"][0]["languages"] == ["en"]
    assert final[-1]["metadata"]["model_info"]["name"] == "base", "nova-3 is the default model"


def _mulaw_bits(pcm: np.ndarray) -> np.ndarray:
    """Exponent and mantissa of G.711's mu-law, before its bits are inverted."""
    sample = np.minimum(np.abs(pcm.astype(np.int32)), 32_635) + 132
    exponent = np.floor(np.log2(sample)).astype(np.int32) - 7
    mantissa = (sample >> (exponent + 3)) & 15
    return (exponent << 4) | mantissa


def test_keywords_change_while_it_goes_on(cluster: Cluster) -> None:
    with socket_of(cluster) as socket:
        control(socket, "Configure", keyterms=["Dashwood"], features={"numerals": True})
        (answer,) = until(socket, "ConfigureSuccess")
        assert answer["keyterms"] == ["Dashwood"]
        control(socket, "Configure", keyterms=[3])
        (failure,) = until(socket, "ConfigureFailure")
        assert failure["code"] == "CONFIGURE_INTERNAL_ERROR" and "list" in failure["description"]


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "Restart"}', '{"kind": 1}', ""])
def test_what_is_no_message_is_told(cluster: Cluster, text: str) -> None:
    with socket_of(cluster) as socket:
        socket.send(text)
        (error,) = until(socket, "Error")
        assert error["variant"] == "SchemaError" and error["message"] == text
        say(socket, speech(16_000))  # and the session goes on
        control(socket, "CloseStream")
        assert is_right(text_of(until(socket, "Metadata")))


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("model=nope&encoding=linear16&sample_rate=16000", 404, "nope"),
        ("encoding=linear16", 400, "sample_rate"),
        ("sample_rate=16000", 400, "containers"),
        ("encoding=opus&sample_rate=48000", 400, "encoding"),
        (f"{RAW}&channels=2", 400, "channels"),
        (f"{RAW}&diarize=true", 400, "diarize"),
        (f"{RAW}&callback=http://127.0.0.1", 400, "callback"),
        (f"{RAW}&endpointing=soon", 400, "endpointing"),
        (f"{RAW}&utterance_end_ms=5", 400, "utterance_end_ms"),
        (f"{RAW}&sideways=1", 400, "sideways"),
        (f"{RAW}&language=xx", 400, "language"),
    ],
)
def test_what_the_address_asks_for_wrongly(
    cluster: Cluster, query: str, status: int, words: str
) -> None:
    with pytest.raises(InvalidStatus) as refused, socket_of(cluster, query):
        pass
    answer = refused.value.response
    assert answer.status_code == status
    body = json.loads(answer.body or b"{}")
    assert set(body) == {"err_code", "err_msg", "request_id"} and words in body["err_msg"]
    assert answer.headers["dg-error"] and answer.headers["dg-request-id"] == body["request_id"]


def test_keys(cluster: Cluster) -> None:
    # What the client makes of a refused handshake depends on its WebSocket library's version.
    with httpx.Client() as connections, pytest.raises((ApiError, InvalidStatus), match="401"):
        live = client_of(cluster, "sk-wrong", connections).listen.v1
        live.connect(model="tiny.en").__enter__()
    with socket_of(cluster, additional_headers={}, subprotocols=["token", KEY]) as socket:
        assert socket.subprotocol == "token"
        control(socket, "CloseStream")
        (metadata,) = until(socket, "Metadata")
        assert metadata["duration"] == 0.0
    with (
        pytest.raises(InvalidStatus),
        socket_of(cluster, additional_headers={}, subprotocols=["token", "sk-wrong"]),
    ):
        pass


def test_the_official_client_sends_a_file(deepgram: DeepgramClient) -> None:
    answer: Any = deepgram.listen.v1.media.transcribe_file(
        request=CLIP.read_bytes(),
        model="tiny.en",
        language="en",
        utterances=True,
        keyterm="Dashwood",
    )
    (channel,) = answer.results.channels
    (alternative,) = channel.alternatives
    assert is_right(alternative.transcript, 0) and 0.5 < alternative.confidence <= 1.0
    assert [word.word for word in alternative.words][:4] == ["and", "mr", "john", "dashwood"]
    assert alternative.words[-1].punctuated_word == "them."
    assert answer.results.utterances[0].transcript.startswith("And Mr.")
    assert answer.metadata.duration == pytest.approx(7.1, abs=0.1)
    assert len(answer.metadata.sha256) == 64 and answer.metadata.models == ["tiny.en"]


def test_errors_of_files_have_deepgrams_shape(cluster: Cluster, deepgram: DeepgramClient) -> None:
    url = f"{cluster.url}/v1/listen"
    token = {"authorization": f"Token {KEY}"}
    for headers, query, body, status, code in (
        ({"authorization": "Token sk-no"}, "", CLIP.read_bytes(), 401, "INVALID_AUTH"),
        (token, "?model=nope", CLIP.read_bytes(), 404, "MODEL_NOT_FOUND"),
        (token, "?model=tiny.en&redact=pci", CLIP.read_bytes(), 400, "UNSUPPORTED"),
        (token, "?model=tiny.en", b"no audio", 400, "INVALID_AUDIO"),
    ):
        answer = httpx2.post(url + query, headers=headers, content=body, timeout=60)
        assert (answer.status_code, answer.json()["err_code"]) == (status, code), answer.text
        assert answer.json()["request_id"] == answer.headers["dg-request-id"]
    with pytest.raises(ApiError) as refused:
        deepgram.listen.v1.media.transcribe_url(url="http://127.0.0.1/a.wav", model="tiny.en")
    assert refused.value.status_code == 400 and "send the audio" in str(refused.value.body)
