"""Both protocols of live speech over sockets, with real sessions in which nobody speaks: no model
is asked."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from deployments.entrance.limits import LiveLimits
from deployments.entrance.live import LiveRun
from deployments.errors import OverloadedError
from deployments.live.options import LiveOptions
from deployments.live.session import LiveSession
from deployments.live.stretch import Model
from engine import DecodingOptions
from serve.http.auth import Auth
from serve.http.deepgram.routes import Deepgram, add_deepgram_routes
from serve.http.realtime.routes import Realtime, add_realtime_routes
from serve.settings.api_keys import hash_key

MODEL = Model("base", ())
RAW = "/v1/listen?encoding=linear16&sample_rate=16000"
REALTIME = "/v1/realtime?intent=transcription"


async def nobody(*_: Any) -> Any:
    raise AssertionError("nobody spoke, so there is nothing to decode")


class Open:
    """A session that is open."""

    def __init__(self, options: LiveOptions) -> None:
        self.options = options
        wanted = options.session_options(DecodingOptions())
        session = LiveSession("session", wanted, MODEL)
        self.run = LiveRun(session, options.audio_format(), nobody, lambda *_: None)

    async def configure(self, options: LiveOptions) -> None:
        wanted = options.session_options(DecodingOptions())
        self.run.configure(wanted, MODEL, options.audio_format())
        self.options = options


class Sessions:
    """Opens sessions, unless it is full."""

    limits = LiveLimits()

    def __init__(self, is_full: bool = False) -> None:
        self._is_full = is_full

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        if self._is_full:
            raise OverloadedError("overloaded: 0 live sessions are open", 5.0)
        yield

    @asynccontextmanager
    async def open(self, options: LiveOptions, request_id: str) -> AsyncIterator[Open]:
        opened = Open(options)
        yield opened
        await opened.run.close()


def client(is_full: bool = False, key: str = "") -> TestClient:
    api = FastAPI()
    sessions: Any = Sessions(is_full)
    auth = Auth((hash_key(key),) if key else ())
    names: Callable[[str], Awaitable[Any]] = nobody
    realtime = Realtime(sessions, names, lambda: auth, lambda: b"k" * 32)
    deepgram = Deepgram(sessions, lambda: auth, lambda name: name == "base", nobody)
    add_realtime_routes(api, lambda: realtime, lambda route: route, lambda request: None)
    add_deepgram_routes(api, lambda: deepgram)
    return TestClient(api)


def test_the_realtime_api_over_a_socket() -> None:
    # Leaving, the test's client cancels what is still served.
    with suppress(CancelledError), client().websocket_connect(REALTIME) as socket:
        assert socket.receive_json()["type"] == "session.created"
        turns = {"audio": {"input": {"turn_detection": None}}}
        socket.send_json({"type": "session.update", "session": turns})
        assert socket.receive_json()["session"]["audio"]["input"]["turn_detection"] is None
        socket.send_json({"type": "input_audio_buffer.commit", "event_id": "mine"})
        error = socket.receive_json()["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")
        audio = base64.b64encode(bytes(48_000)).decode()
        socket.send_json({"type": "input_audio_buffer.append", "audio": audio})
        socket.send_json({"type": "input_audio_buffer.commit"})
        kinds = [socket.receive_json()["type"] for _ in range(4)]
        assert kinds[0] == "input_audio_buffer.committed"
        assert kinds[-1] == "conversation.item.input_audio_transcription.completed"
        socket.send_text("{")
        assert socket.receive_json()["error"]["code"] == "invalid_json"


def test_deepgrams_protocol_over_a_socket() -> None:
    with client().websocket_connect(RAW) as socket:
        for size in (3_200, 64_000):
            socket.send_bytes(bytes(size))
        socket.send_json({"type": "Finalize"})
        result = socket.receive_json()
        assert (result["type"], result["from_finalize"], result["duration"]) == (
            *("Results", True),
            pytest.approx(2.1, abs=0.01),
        )
        socket.send_json({"type": "KeepAlive"})
        socket.send_text("what?")
        assert socket.receive_json()["variant"] == "SchemaError"
        socket.send_json({"type": "CloseStream"})
        metadata = socket.receive_json()
        assert (metadata["type"], metadata["models"]) == ("Metadata", ["base"])
        assert metadata["duration"] == pytest.approx(2.1)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1000


def test_a_server_that_is_full() -> None:
    http = client(is_full=True)
    with http.websocket_connect(REALTIME) as socket:
        assert socket.receive_json()["error"]["code"] == "overloaded"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1013
    with pytest.raises(WebSocketDenialResponse) as refused, http.websocket_connect(RAW):
        pass
    assert refused.value.status_code == 429
    assert json.loads(refused.value.content)["err_code"] == "TOO_MANY_REQUESTS"


def test_keys_of_both_protocols() -> None:
    http = client(key="right")
    for header in ("Token right", "Bearer right"):
        with http.websocket_connect(RAW, headers={"authorization": header}) as socket:
            socket.send_json({"type": "CloseStream"})
            assert socket.receive_json()["type"] == "Metadata"
    with http.websocket_connect(RAW, subprotocols=["token", "right"]) as socket:
        assert socket.accepted_subprotocol == "token"
        socket.send_json({"type": "CloseStream"})
        assert socket.receive_json()["type"] == "Metadata"
    with pytest.raises(WebSocketDenialResponse) as refused, http.websocket_connect(RAW):
        pass
    assert refused.value.status_code == 401
    with http.websocket_connect(REALTIME) as socket:
        assert socket.receive_json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 3000
