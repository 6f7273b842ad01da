"""The live part of the client: a session over a WebSocket that survives the loss of its connection.

Audio of turns that have no final text yet is kept here. When the connection is lost, or the server
moves the session because it restarts, another session begins with that audio. Each turn is
completed once; what was told of an unfinished turn is void, for it is told anew under another id.
"""

import base64
import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect

from deployments.errors import DeploymentError
from deployments.live.events import (
    Cleared,
    Committed,
    Completed,
    Delta,
    Event,
    Failed,
    Lagging,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
)
from deployments.live.options import LiveOptions
from engine import Word
from serve.addresses import is_this_machine
from serve.live_lead import Lead

COMMIT, CLEAR = "commit", "clear"
Piece = bytes | np.ndarray[Any, Any] | str
"""Audio, or one of these two words."""
_END, _ENDED = "end", "ended"
_RECOVERABLE = frozenset({1001, 1006, 1011, 1012, 1013})
_MAX_ATTEMPTS = 12
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.25, 5.0
_OPEN_TIMEOUT_S = 30.0
_MAX_APPEND_BYTES = 4 * 1024 * 1024
_LEAD_S = 8.0
"""Of the last turn, the end that a new connection hears once more: without a voice before them,
first words are misheard."""
_SILENCE_S = 60.0
"""Of audio in which nobody speaks, what is kept."""
_BEFORE_S = 0.5
"""Silence before a turn in it, so that its beginning is found."""
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class LiveError(DeploymentError):
    """The server refused something, or cannot be reached. `code` is that of OpenAI's error."""

    def __init__(self, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code, self.param)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was sent: audio that ends at byte `end` of all audio, or a word said there."""

    end: int
    piece: bytes | str


class LiveClient:
    """One session.

    Args:
        url: address of the server, without `/v1`.
        pieces: audio in the options' encoding, or int16 samples; `"commit"` ends a turn, `"clear"`
            forgets what was not committed. It is read on a thread of its own.
    """

    def __init__(
        self, url: str, api_key: str | None, options: LiveOptions, pieces: Iterable[Piece]
    ) -> None:
        query = urlencode({"intent": "transcription"})
        self._url = f"ws{url.rstrip('/').removeprefix('http')}/v1/realtime?{query}"
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._options = options
        self._pieces = pieces
        self._new: queue.SimpleQueue[_Kept | BaseException | None] = queue.SimpleQueue()
        self._kept: deque[_Kept] = deque()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._n_bytes = 0
        self._done_bytes = 0
        self._lead_bytes = 0
        self._offset_s = 0.0
        self._lead: Lead | None = None
        self._n_due = 0
        self._speaking: set[str] = set()
        self._ended = False
        self._was_there = False
        self._fault: BaseException | None = None

    def events(self) -> Iterator[Event]:
        """What is heard, until all text is told.

        Raises:
            LiveError: the server refused the session, or cannot be reached (any more).
            Exception: whatever reading the audio raised.
        """
        threading.Thread(target=self._read_pieces, name="murmur-live", daemon=True).start()
        n_lost = 0
        try:
            while True:
                try:
                    for event in self._connection():
                        n_lost = 0
                        yield event
                    return
                except (ConnectionClosed, OSError, WebSocketException) as error:
                    if self._fault is not None:
                        raise self._fault from None
                    if isinstance(error, OSError) and not self._was_there:
                        raise LiveError(f"no server answers at {self._url}: {error}") from error
                    n_lost += 1
                    if not _is_recoverable(error) or n_lost > _MAX_ATTEMPTS:
                        raise LiveError(f"the connection was lost: {error}") from error
                    time.sleep(min(_FIRST_PAUSE_S * 2 ** (n_lost - 1), _MAX_PAUSE_S))
        finally:
            self._stopped.set()

    def _read_pieces(self) -> None:
        """Read the caller's audio, whatever happens to the connection."""
        at = 0
        try:
            for piece in self._pieces:
                if self._stopped.is_set():
                    return
                data = piece if isinstance(piece, str) else _bytes_of(piece)
                at += 0 if isinstance(data, str) else len(data)
                self._new.put(_Kept(at, data))
        except BaseException as error:  # raised where the events are read
            self._fault = error
            self._new.put(error)
        else:
            self._new.put(None)

    def _connection(self) -> Iterator[Event]:
        """One connection: what is kept goes first, then what is new."""
        with connect(
            self._url,
            additional_headers=self._headers,
            open_timeout=_OPEN_TIMEOUT_S,
            max_size=None,
            compression=None,
            proxy=None if is_this_machine(self._url) else True,
        ) as socket:
            self._was_there = True
            self._offset_s = self._lead_bytes / self._bytes_per_s
            done_s = self._done_bytes / self._bytes_per_s
            self._lead = Lead(done_s) if self._lead_bytes < self._done_bytes else None
            self._n_due = 0
            self._speaking.clear()
            self._ended = False
            lost = threading.Event()
            sender = threading.Thread(target=self._send_all, args=(socket, lost), daemon=True)
            began = False
            try:
                while True:
                    event = json.loads(socket.recv())
                    if event["type"] == "session.created":
                        _send(socket, "session.update", session=_session_of(self._options))
                    if event["type"] == "session.updated" and not began:
                        began = True
                        sender.start()
                    if event["type"] == "error" and not self._forgives(event["error"]):
                        error = event["error"]
                        raise LiveError(error["message"], error["code"], error["param"])
                    told = self._told(event)
                    yield from self._new_of(told) if told is not None else ()
                    if self._ended and self._n_due == 0:
                        return
            finally:
                lost.set()
                if began:
                    sender.join()

    def _send_all(self, socket: ClientConnection, lost: threading.Event) -> None:
        try:
            for kept in list(self._kept):
                self._send(socket, kept)
            while not lost.is_set():
                try:
                    new = self._new.get(timeout=0.1)
                except queue.Empty:
                    continue
                if new is None or isinstance(new, BaseException):
                    self._new.put(new)  # for the next connection, if this one is lost
                    if isinstance(new, BaseException):
                        socket.close()
                        return
                    _send(socket, "input_audio_buffer.commit", event_id=_END)
                    # Its answer, an error, comes behind all that the commit gives.
                    _send(socket, "conversation.item.retrieve", item_id=_END, event_id=_ENDED)
                    return
                self._keep(new)
                self._send(socket, new)
        except ConnectionClosed:
            return  # the reader notices it, too

    def _send(self, socket: ClientConnection, kept: _Kept) -> None:
        if isinstance(kept.piece, str):
            _send(socket, f"input_audio_buffer.{kept.piece}", event_id=kept.piece)
            return
        for start in range(0, len(kept.piece), _MAX_APPEND_BYTES):
            data = kept.piece[start : start + _MAX_APPEND_BYTES]
            _send(socket, "input_audio_buffer.append", audio=base64.b64encode(data).decode())

    def _forgives(self, error: dict[str, Any]) -> bool:
        """Whether an error is none: there may be nothing left to commit at the end, and then all
        that was asked for has been answered."""
        self._ended = self._ended or error["event_id"] == _ENDED
        return error["event_id"] in (_END, _ENDED)

    def _new_of(self, event: Event) -> Iterator[Event]:
        """What an event says that was not told by an earlier connection."""
        item_id = getattr(event, "item_id", None)
        if self._lead is None or item_id is None or not self._lead.is_of(event, item_id):
            yield event
        elif isinstance(event, Completed):
            yield from self._lead.rest(event)
            self._lead = None
        elif isinstance(event, Failed):  # it was told before
            self._lead = None

    def _told(self, event: dict[str, Any]) -> Event | None:
        at = self._offset_s
        match event["type"]:
            case "input_audio_buffer.speech_started":
                self._speaking.add(event["item_id"])
                return SpeechStarted(event["item_id"], at + event["audio_start_ms"] / 1000)
            case "input_audio_buffer.speech_stopped":
                return SpeechStopped(event["item_id"], at + event["audio_end_ms"] / 1000)
            case "input_audio_buffer.timeout_triggered":
                start_s, end_s = event["audio_start_ms"] / 1000, event["audio_end_ms"] / 1000
                return TimedOut(event["item_id"], at + start_s, at + end_s)
            case "input_audio_buffer.committed":
                self._n_due += 1
                return Committed(event["item_id"], event["previous_item_id"])
            case "input_audio_buffer.cleared":
                return Cleared()
            case "murmur.lagging":
                return Lagging(event["lag_ms"] / 1000)
            case kind if kind == f"{_TRANSCRIPTION}.delta":
                return Delta(event["item_id"], event["delta"])
            case kind if kind == f"{_TRANSCRIPTION}.failed":
                self._n_due -= 1
                self._speaking.discard(event["item_id"])
                error = event["error"]
                return Failed(
                    event["item_id"], LiveError(error["message"], error["code"], error["param"])
                )
            case kind if kind == f"{_TRANSCRIPTION}.completed":
                self._n_due -= 1
                completed = _completed(event, at)
                self._forget(completed.start_s, completed.end_s)
                self._speaking.discard(completed.item_id)
                return completed
        return None

    def _forget(self, start_s: float, end_s: float) -> None:
        """A turn's text is final: of its audio only the end will be sent again, as a lead."""
        lead_s = max(start_s - _BEFORE_S, end_s - _LEAD_S, 0.0)
        with self._lock:
            self._done_bytes = min(max(self._done_bytes, self._byte_at(end_s)), self._n_bytes)
            self._drop_before(min(self._byte_at(lead_s), self._done_bytes))

    def _keep(self, new: _Kept) -> None:
        """Keep what is sent. Where the server hears turns, and nobody speaks, the last minute is
        enough."""
        with self._lock:
            self._kept.append(new)
            self._n_bytes = new.end
            if self._options.turns is not None and not self._speaking:
                self._drop_before(self._n_bytes - self._byte_at(_SILENCE_S))

    def _drop_before(self, byte: int) -> None:
        """What is sent to a new connection begins at this byte. The lock is held."""
        self._lead_bytes = max(self._lead_bytes, byte)
        while self._kept and self._kept[0].end <= self._lead_bytes:
            self._kept.popleft()
        if self._kept and isinstance(first := self._kept[0].piece, bytes):
            left = self._kept[0].end - self._lead_bytes
            if left < len(first):
                self._kept[0] = replace(self._kept[0], piece=first[len(first) - left :])

    def _byte_at(self, time_s: float) -> int:
        """The place of a whole sample in all audio."""
        at = round(time_s * self._bytes_per_s)
        return at - at % self._options.audio_format().sample_bytes

    @property
    def _bytes_per_s(self) -> int:
        return self._options.rate * self._options.audio_format().sample_bytes


class Feeding:
    """Puts pieces of audio into a queue, on a thread."""

    def __init__(self, audio: Iterable[Piece], pieces: Any) -> None:
        self._audio = audio
        self._pieces = pieces
        self._stopped = threading.Event()
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="murmur-live", daemon=True).start()

    def check(self) -> None:
        """Raise what the caller's audio raised."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        from ray.exceptions import RayError

        try:
            for piece in self._audio:
                if self._stopped.is_set():
                    return
                self._pieces.put(piece)
        except RayError:  # the session is over, and the queue with it
            return
        except Exception as error:  # raised where the events are read
            self._error = error
        self._pieces.put(None)


def _bytes_of(piece: bytes | np.ndarray[Any, Any]) -> bytes:
    if isinstance(piece, np.ndarray):
        if piece.dtype != np.int16 or piece.ndim != 1:
            raise ValueError(f"samples must be int16 of shape (n,), not {piece.dtype}")
        return piece.astype("<i2", copy=False).tobytes()
    return bytes(piece)


def _send(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def _session_of(options: LiveOptions) -> dict[str, Any]:
    """Options as a session object.

    Raises:
        ValueError: the object has no field for an option.
    """
    if options.task != "transcribe":
        raise ValueError("a live translation can be asked for over a handle only")
    names = {"pcm16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}
    format: dict[str, Any] = {"type": names[options.encoding]}
    if options.encoding == "pcm16":
        format["rate"] = options.rate
    elif options.rate != 8_000:
        raise ValueError("G.711 has 8000 samples a second over HTTP")
    turns = options.turns
    detection = turns and {
        "type": "server_vad",
        "threshold": turns.threshold,
        "prefix_padding_ms": round(1000 * turns.prefix_padding_s),
        "silence_duration_ms": round(1000 * turns.silence_s),
        "idle_timeout_ms": turns.idle_timeout_s and round(1000 * turns.idle_timeout_s),
    }
    transcription = {
        "model": options.model,
        "language": options.language,
        "languages": list(options.languages) or None,
        "prompt": options.prompt,
        "keywords": list(options.keywords) or None,
        "keyword_boost": options.keyword_boost,
        "policy": options.policy,
        "delay": options.delay,
        "context_characters": options.context_characters,
    }
    part = {"format": format, "transcription": transcription, "turn_detection": detection}
    return {"type": "transcription", "audio": {"input": part}}


def _completed(event: dict[str, Any], at: float) -> Completed:
    # A blank stands before each word of our own events, where the text has one.
    words = tuple(
        Word(round(at + w["start"], 3), round(at + w["end"], 3), w["word"], w["probability"])
        for w in event.get("words", ())
    )
    languages = event.get("languages") or [{"code": ""}]
    return Completed(
        item_id=event["item_id"],
        text=event["transcript"],
        start_s=at + event["audio_start_ms"] / 1000,
        end_s=at + event["audio_end_ms"] / 1000,
        language=languages[0]["code"],
        words=words,
    )


def _is_recoverable(error: Exception) -> bool:
    if isinstance(error, ConnectionClosed):
        return error.rcvd is None or error.rcvd.code in _RECOVERABLE
    if isinstance(error, InvalidStatus):  # while no ingress runs, the proxy answers itself
        return error.response.status_code >= 500
    return isinstance(error, OSError | InvalidMessage)
