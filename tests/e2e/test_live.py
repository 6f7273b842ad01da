"""Live speech on a real cluster: OpenAI's realtime client, a raw WebSocket and handles."""

import base64
import json
import socket as socketlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import soxr
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from deployments.live.events import Completed
from deployments.live.options import LiveOptions
from serve.client import connect as murmur_client
from serve.live_client import LiveError
from tests.conftest import read_pcm
from tests.e2e.conftest import CLIP, KEY
from tests.support.cluster import Cluster
from tests.support.live_text import is_right

TRANSCRIPTION = "conversation.item.input_audio_transcription"
PAUSE = np.zeros(12_000, np.int16)


def speech(rate: int = 24_000) -> np.ndarray:
    """The clip between two pauses."""
    pcm = np.concatenate([PAUSE, read_pcm(CLIP), PAUSE])
    return np.asarray(soxr.resample(pcm, 16_000, rate))


def base64_of(pcm: np.ndarray) -> str:
    return base64.b64encode(pcm.astype("<i2").tobytes()).decode()


class Socket:
    """A raw WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def append(self, pcm: np.ndarray, block: int = 4_800) -> None:
        for start in range(0, len(pcm), block):
            audio = base64_of(pcm[start : start + block])
            self.send("input_audio_buffer.append", audio=audio)

    def get(self, timeout_s: float = 60) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.socket.recv(timeout=timeout_s))
        assert event["event_id"]
        return event

    def until(self, kind: str) -> list[dict[str, Any]]:
        """All events up to the next one of a type."""
        events = [self.get()]
        while events[-1]["type"] != kind:
            events.append(self.get())
        return events

    def error(self) -> dict[str, Any]:
        event = self.get()
        assert event["type"] == "error" and set(event["error"]) == {
            "type",
            "code",
            "message",
            "param",
            "event_id",
        }
        error: dict[str, Any] = event["error"]
        return error

    def closed(self) -> int:
        """The code with which the server closes."""
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.get()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


@contextmanager
def socket_of(
    cluster: Cluster, query: str = "intent=transcription", key: str | None = KEY, **options: Any
) -> Iterator[Socket]:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    url = f"{cluster.url.replace('http', 'ws')}/v1/realtime?{query}"
    with connect(url, additional_headers=headers, max_size=None, **options) as socket:
        yield Socket(socket)


@pytest.fixture
def socket(cluster: Cluster) -> Iterator[Socket]:
    """A socket whose session hears with tiny.en."""
    with socket_of(cluster) as socket:
        assert socket.get()["type"] == "session.created"
        socket.send("session.update", session=with_input(transcription={"model": "tiny.en"}))
        assert socket.get()["type"] == "session.updated"
        yield socket


def with_input(**part: Any) -> dict[str, Any]:
    return {"type": "transcription", "audio": {"input": part}}


# The client's own use of its WebSocket library.
@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used:DeprecationWarning")
def test_the_official_client_hears_turns(client: openai.OpenAI) -> None:
    """Every event of a turn that the server ends: order, fields and values."""
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        created: Any = connection.recv()
        assert created.type == "session.created"
        part = created.session.audio.input
        assert created.session.type == "transcription" and part.format.rate == 24_000
        assert part.turn_detection.type == "server_vad" and part.turn_detection.threshold == 0.5
        assert part.turn_detection.prefix_padding_ms == 300
        assert part.turn_detection.silence_duration_ms == 500
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"transcription": {"model": "tiny.en", "language": "en"}}},
                "include": ["item.input_audio_transcription.logprobs"],
            }
        )
        updated: Any = connection.recv()
        assert updated.type == "session.updated" and updated.session.id == created.session.id
        assert updated.session.audio.input.transcription.model == "tiny.en"
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 500
        connection.input_audio_buffer.append(audio=base64_of(speech()))
        events: list[Any] = []
        while not events or events[-1].type != f"{TRANSCRIPTION}.completed":
            events.append(connection.recv())
        connection.conversation.item.retrieve(item_id=events[-1].item_id)
        retrieved: Any = connection.recv()
        connection.conversation.item.delete(item_id=events[-1].item_id)
        deleted: Any = connection.recv()
    kinds = [event.type for event in events if event.type != f"{TRANSCRIPTION}.delta"]
    assert kinds == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        f"{TRANSCRIPTION}.completed",
    ]
    by_kind = {event.type: event for event in events}
    started = by_kind["input_audio_buffer.speech_started"]
    stopped = by_kind["input_audio_buffer.speech_stopped"]
    completed = events[-1]
    assert 500 <= started.audio_start_ms <= 1_200 and 7_900 <= stopped.audio_end_ms <= 8_600
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {started.item_id}
    committed = by_kind["input_audio_buffer.committed"]
    assert committed.previous_item_id is None
    item = by_kind["conversation.item.done"].item
    assert (item.id, item.role, item.type, item.status) == (
        started.item_id,
        "user",
        "message",
        "completed",
    )
    assert item.content[0].type == "input_audio"
    deltas = [event for event in events if event.type == f"{TRANSCRIPTION}.delta"]
    assert "".join(delta.delta for delta in deltas) == completed.transcript
    assert is_right(completed.transcript)
    logprobs = [found for delta in deltas for found in delta.logprobs]
    assert logprobs == completed.logprobs
    assert b"".join(bytes(found.bytes) for found in logprobs).decode().strip() == (
        completed.transcript
    )
    assert all(found.logprob <= 0 for found in logprobs)
    assert completed.usage.type == "duration" and completed.content_index == 0
    length_ms = stopped.audio_end_ms - started.audio_start_ms
    assert completed.usage.seconds == pytest.approx(length_ms / 1000, abs=0.002)
    assert [language.code for language in completed.languages] == ["en"]
    assert retrieved.type == "conversation.item.retrieved"
    assert retrieved.item.content[0].transcript == completed.transcript
    assert (deleted.type, deleted.item_id) == ("conversation.item.deleted", started.item_id)
    assert len({event.event_id for event in events}) == len(events)


def test_the_client_commits_and_hears_text_before(socket: Socket) -> None:
    """Turns that the client ends, in real time: text comes while the audio does."""
    model = {"model": "gpt-live-transcribe"}
    socket.send("session.update", session=with_input(transcription=model))
    assert socket.get()["session"]["audio"]["input"]["turn_detection"] is None
    part = with_input(transcription={"model": "tiny.en"}, turn_detection=None)
    socket.send("session.update", session=part)
    pcm, texts = speech(), []
    socket.get()
    for start in range(0, len(pcm), 4_800):
        socket.append(pcm[start : start + 4_800])
        time.sleep(0.2)
    socket.send("input_audio_buffer.commit", event_id="mine")
    before = socket.until("input_audio_buffer.committed")
    after = socket.until(f"{TRANSCRIPTION}.completed")
    texts = [event["delta"] for event in before if event["type"] == f"{TRANSCRIPTION}.delta"]
    assert len(texts) >= 2, "text came before the commit"
    assert is_right(after[-1]["transcript"])
    assert after[-1]["transcript"].startswith("".join(texts))
    assert after[-1]["usage"]["seconds"] == pytest.approx(len(pcm) / 24_000, abs=0.05)
    assert [word["word"] for word in after[-1]["words"]] == after[-1]["transcript"].split()
    # Nothing more to commit; the next turn knows the one before.
    socket.send("input_audio_buffer.commit", event_id="again")
    error = socket.error()
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "again")
    socket.append(np.zeros(24_000, np.int16))
    socket.send("input_audio_buffer.commit")
    empty = socket.until(f"{TRANSCRIPTION}.completed")
    assert empty[0]["previous_item_id"] == before[-1]["item_id"]
    assert empty[-1]["transcript"] == "" and empty[-1]["languages"] == []


def test_telephone_audio(socket: Socket) -> None:
    import io

    import soundfile

    for kind, subtype in (("audio/pcmu", "ULAW"), ("audio/pcma", "ALAW")):
        socket.send("session.update", session=with_input(format={"type": kind}))
        assert "rate" not in socket.get()["session"]["audio"]["input"]["format"]
        data = io.BytesIO()
        soundfile.write(data, speech(8_000), 8_000, subtype=subtype, format="RAW")
        audio = base64.b64encode(data.getvalue()).decode()
        socket.send("input_audio_buffer.append", audio=audio)
        completed = socket.until(f"{TRANSCRIPTION}.completed")[-1]
        assert is_right(completed["transcript"], 4)


def test_what_is_cleared_is_not_heard(socket: Socket) -> None:
    pcm = speech()
    socket.append(pcm[: len(pcm) // 2])
    socket.until("input_audio_buffer.speech_started")
    socket.send("input_audio_buffer.clear")
    socket.until("input_audio_buffer.cleared")
    socket.append(np.zeros(24_000, np.int16))
    socket.append(pcm)
    events = socket.until(f"{TRANSCRIPTION}.completed")
    assert is_right(events[-1]["transcript"])
    assert sum(event["type"].endswith("committed") for event in events) == 1


def test_wrong_events_are_told_and_change_nothing(socket: Socket) -> None:
    update = "session.update"
    path = "session.audio.input"
    cases: list[tuple[Any, str, str | None]] = [
        ("{not json", "invalid_json", None),
        ("[1]", "invalid_type", None),
        ("{}", "missing_required_parameter", "type"),
        ({"type": "response.create"}, "invalid_value", "type"),
        ({"type": "input_audio_buffer.append"}, "invalid_type", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
        ({"type": "conversation.item.retrieve"}, "missing_required_parameter", "item_id"),
        (
            {"type": "conversation.item.delete", "item_id": "none"},
            "item_not_found",
            "item_id",
        ),
        ({"type": update}, "invalid_type", "session"),
        ({"type": update, "session": {"type": "realtime"}}, "invalid_value", "session.type"),
        ({"type": update, "session": {"voice": "x"}}, "unknown_parameter", "session.voice"),
        (
            {"type": update, "session": with_input(noise_reduction={"type": "near_field"})},
            "unsupported",
            f"{path}.noise_reduction",
        ),
        (
            {"type": update, "session": with_input(turn_detection={"type": "semantic_vad"})},
            "unsupported",
            f"{path}.turn_detection.type",
        ),
        (
            {"type": update, "session": with_input(turn_detection={"threshold": 2})},
            "invalid_value",
            f"{path}.turn_detection.threshold",
        ),
        (
            {"type": update, "session": with_input(transcription={"language": "fr"})},
            "invalid_value",
            f"{path}.transcription.language",
        ),
        (
            {"type": update, "session": with_input(transcription={"model": "none"})},
            "model_not_found",
            "model",
        ),
        ({"type": update, "session": with_input(format={"type": "opus"})}, "invalid_value", None),
    ]
    for sent, code, param in cases:
        if isinstance(sent, dict):
            sent = json.dumps({**sent, "event_id": "mine"})
            socket.socket.send(sent)
            error = socket.error()
            assert error["event_id"] == "mine"
        else:
            socket.socket.send(sent)
            error = socket.error()
        assert error["code"] == code, (sent, error)
        assert param is None or error["param"] == param, (sent, error)
        assert error["type"] == "invalid_request_error" and error["message"]
    socket.append(speech())
    assert is_right(socket.until(f"{TRANSCRIPTION}.completed")[-1]["transcript"])


def test_the_spelling_before_general_availability(cluster: Cluster) -> None:
    with socket_of(cluster) as socket:
        socket.get()
        session = {
            "input_audio_format": "pcm16",
            "input_audio_transcription": {"model": "tiny.en"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
        }
        socket.send("transcription_session.update", session=session)
        updated = socket.get()
        assert updated["type"] == "transcription_session.updated"
        assert updated["session"]["input_audio_format"] == "pcm16"
        assert updated["session"]["turn_detection"]["silence_duration_ms"] == 400
        socket.append(speech())
        events = socket.until(f"{TRANSCRIPTION}.completed")
        kinds = [event["type"] for event in events]
        assert "conversation.item.created" in kinds and "conversation.item.done" not in kinds
        assert is_right(events[-1]["transcript"])


def test_keys_and_client_secrets(cluster: Cluster, client: openai.OpenAI) -> None:
    for key in (None, "sk-wrong", "ek_wrong"):
        with socket_of(cluster, key=key) as socket:
            assert socket.error()["code"] == "invalid_api_key"
            assert socket.closed() == 3000
    made: Any = client.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 30},
        session={
            "type": "transcription",
            "audio": {"input": {"transcription": {"model": "tiny.en"}, "turn_detection": None}},
        },
    )
    assert made.value.startswith("ek_") and 25 <= made.expires_at - time.time() <= 31
    assert made.session.audio.input.transcription.model == "tiny.en"
    with socket_of(cluster, key=made.value) as socket:
        part = socket.get()["session"]["audio"]["input"]
        assert part["transcription"]["model"] == "tiny.en" and part["turn_detection"] is None
    # As browsers give it, which cannot set headers.
    protocols = ["realtime", f"openai-insecure-api-key.{made.value}"]
    with socket_of(cluster, key=None, subprotocols=protocols) as socket:
        assert socket.socket.subprotocol == "realtime"
        assert socket.get()["type"] == "session.created"
    url = f"{cluster.url}/v1/realtime/client_secrets"
    assert httpx2.post(url, json={}).status_code == 401
    headers = {"authorization": f"Bearer {KEY}"}
    for body, param in (
        ({"expires_after": {"seconds": 5}}, "expires_after.seconds"),
        ({"session": {"audio": {"input": {"speed": 2}}}}, "session.audio.input.speed"),
    ):
        answer = httpx2.post(url, json=body, headers=headers)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert httpx2.post(url, content=b"{", headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("query", "code"), [("intent=conversation", "unsupported"), ("model=none", "model_not_found")]
)
def test_other_intents_are_refused(cluster: Cluster, query: str, code: str) -> None:
    with socket_of(cluster, query) as socket:
        assert socket.error()["code"] == code
        assert socket.closed() == 1008


def test_a_frame_that_is_too_large(cluster: Cluster, socket: Socket) -> None:
    """The socket is closed; the others do not notice."""
    with socket_of(cluster, "intent=transcription&model=tiny.en") as other:
        other.get()
        other.socket.send("x" * 20_000_000)
        assert other.closed() == 1009
    socket.append(speech())
    assert is_right(socket.until(f"{TRANSCRIPTION}.completed")[-1]["transcript"])


def test_clients_that_go_without_a_word(cluster: Cluster, socket: Socket) -> None:
    for _ in range(3):
        with socket_of(cluster, "intent=transcription&model=tiny.en") as other:
            other.get()
            other.append(speech()[: 24_000 * 3])
            other.socket.socket.shutdown(socketlib.SHUT_RDWR)
    socket.append(speech())
    assert is_right(socket.until(f"{TRANSCRIPTION}.completed")[-1]["transcript"])
    # Serve may cancel a socket's task before that has read that its client is gone.
    ends, deadline = ("ok", "cancelled"), time.monotonic() + 30
    while sum(r.get("audio_s") == 0 and r["outcome"] in ends for r in cluster.records()) < 3:
        assert time.monotonic() < deadline, cluster.records()
        time.sleep(0.5)


def test_a_replica_that_dies_costs_no_word(cluster: Cluster) -> None:
    """A replica of base dies while it listens: the only one there is."""
    pcm = speech()
    with socket_of(cluster, "intent=transcription&model=base") as socket:
        socket.get()

        def kill() -> None:
            time.sleep(3)
            cluster.kill("base")

        killer = threading.Thread(target=kill)
        killer.start()
        for start in range(0, len(pcm), 4_800):
            socket.append(pcm[start : start + 4_800])
            time.sleep(0.2)
        events = socket.until(f"{TRANSCRIPTION}.completed")
        killer.join()
    deltas = [event["delta"] for event in events if event["type"] == f"{TRANSCRIPTION}.delta"]
    assert "".join(deltas) == events[-1]["transcript"]
    assert is_right(events[-1]["transcript"])


HANDLE_JOB = """
import json, sys
import numpy as np, ray
from ray import serve
from ray.util.queue import Queue
from deployments.live.events import Completed, Delta
from deployments.live.options import LiveOptions
from serve.client import connect
from tests.e2e.test_live import speech

ray.init(log_to_driver=False)
pcm = speech(16_000)
blocks = [pcm[start : start + 1_600] for start in range(0, len(pcm), 1_600)]
options = LiveOptions(model="tiny.en", rate=16_000)
with connect("murmur") as client:
    events = list(client.live(blocks, options))
handle = serve.get_app_handle("murmur").options(stream=True)
queue = Queue(actor_options={"num_cpus": 0})
for piece in [*blocks, "commit", None]:
    queue.put(piece)
wish = {"model": "tiny.en", "rate": 16_000, "turns": None}
plain = list(handle.live.remote(queue, wish))
errors = []
for wrong, pieces in (({"model": "none"}, [None]), ({"speed": 2}, [None]), (wish, [1.5])):
    queue = Queue(actor_options={"num_cpus": 0})
    for piece in pieces:
        queue.put(piece)
    try:
        list(handle.live.remote(queue, wrong))
    except Exception as error:
        errors.append(str(error).strip().splitlines()[-1])
print(json.dumps({
    "kinds": [type(event).__name__ for event in events],
    "deltas": "".join(event.text for event in events if isinstance(event, Delta)),
    "text": [event.text for event in events if isinstance(event, Completed)],
    "plain": plain,
    "errors": errors,
}))
"""


def test_other_jobs_hear_live(cluster: Cluster) -> None:
    told = json.loads(cluster.job("-c", HANDLE_JOB).splitlines()[-1])
    kinds = [kind for kind in told["kinds"] if kind != "Delta"]
    assert kinds == ["SpeechStarted", "SpeechStopped", "Committed", "Completed"]
    assert is_right(told["text"][0]) and told["deltas"] == told["text"][0]
    last = told["plain"][-1]
    assert last["type"] == "Completed" and is_right(last["text"]) and last["words"]
    unknown_model, unknown_option, no_audio = told["errors"]
    assert "the model 'none' does not exist" in unknown_model
    assert "unknown option 'speed'" in unknown_option and "float" in no_audio


def test_the_client_over_http(cluster: Cluster) -> None:
    """A client that loses its connection goes on, and no word is lost or said twice."""
    pcm = speech(16_000)
    blocks = [pcm[start : start + 1_600] for start in range(0, len(pcm), 1_600)]
    options = LiveOptions(model="tiny.en", rate=16_000)
    with murmur_client(cluster.url, KEY) as client:
        events = list(client.live([*blocks, *blocks], options))
        completed = [event for event in events if isinstance(event, Completed)]
        # What is left at the end is a turn, too.
        assert completed.pop().text == ""
        assert len(completed) == 2 and all(is_right(event.text) for event in completed)
        assert completed[0].end_s < completed[1].start_s < len(pcm) / 16_000 + 1.5
        with pytest.raises(LiveError, match="does not exist"):
            list(client.live(blocks, LiveOptions(model="none")))
    with murmur_client(cluster.url, "sk-wrong") as client:
        with pytest.raises(LiveError, match="incorrect API key"):
            list(client.live(blocks, options))


def test_the_command_hears_over_a_server(cluster: Cluster) -> None:
    arguments = ("live", CLIP, "--model", "tiny.en", "--speed", "0", "--url", cluster.url)
    done = cluster.murmur(*arguments, "--api-key", KEY)
    assert done.returncode == 0, done.stderr
    assert is_right(done.stdout)


def test_audio_that_cannot_be_read_is_told_as_such(cluster: Cluster) -> None:
    arguments = ("live", "nowhere.wav", "--model", "tiny.en", "--url", cluster.url)
    done = cluster.murmur(*arguments, "--api-key", KEY)
    assert done.returncode == 2 and "nowhere.wav" in done.stderr, done.stderr
