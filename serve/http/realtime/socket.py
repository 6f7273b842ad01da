"""A WebSocket of OpenAI's Realtime API: a client's events in, a session's events out."""

import base64
import binascii
import json
import uuid
from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket

from deployments.entrance.live import Note
from deployments.entrance.live_sessions import LiveSessions, OpenSession
from deployments.errors import DeploymentError, OptionError
from deployments.live.events import Event
from deployments.live.session import MIN_COMMIT_S, EmptyBufferError
from deployments.options import AUTO
from engine import RequestError
from serve.http.answers import TokenNames
from serve.http.errors import HttpError, log_and_convert
from serve.http.live_sockets import Json, LiveSocket
from serve.http.realtime.config import SessionConfig, from_beta
from serve.http.realtime.errors import RealtimeError, body_of
from serve.http.realtime.rendering import Rendering, event_of

MAX_AUDIO_BYTES = 15 * 1024 * 1024
"""Of one `input_audio_buffer.append`."""
_PARAMS = {
    "language": "session.audio.input.transcription.language",
    "languages": "session.audio.input.transcription.languages",
    "prompt": "session.audio.input.transcription.prompt",
    "keywords": "session.audio.input.transcription.keywords",
    "model": "session.audio.input.transcription.model",
}
UNAUTHORIZED = 3000


class RealtimeSocket(LiveSocket):
    """One connection.

    Args:
        socket: accepted.
        sessions: where sessions are opened.
        names: token names of a tier.
    """

    def __init__(
        self,
        socket: WebSocket,
        sessions: LiveSessions,
        names: Callable[[str], Awaitable[TokenNames]],
    ) -> None:
        super().__init__(socket, sessions, f"sess_{uuid.uuid4().hex[:21]}")
        self._names = names
        self._rendering = Rendering(self._id)
        self._config = SessionConfig()
        self._handlers: dict[str, Callable[[OpenSession, Json], Awaitable[None]]] = {
            "session.update": self._update,
            "transcription_session.update": self._update_beta,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.delete": self._delete,
        }

    async def serve(self, config: SessionConfig, request_id: str) -> None:
        """Serve the connection to its end.

        Args:
            config: what the session begins with.
        """
        self._config = config
        await self._run(config.options, request_id)

    async def _begin(self, session: OpenSession) -> None:
        self._rendering.names = await self._token_names(session, self._config)
        self._tell(self._session_event("session.created"))

    async def _take(self, session: OpenSession, data: str | bytes) -> None:
        """Do what a client's event says; what is wrong with it is told, and changes nothing."""
        event_id: str | None = None
        try:
            event = _parsed(data)
            event_id = event["event_id"] if isinstance(event.get("event_id"), str) else None
            handler = self._handlers.get(event["type"])
            if handler is None:
                known = ", ".join(sorted(self._handlers))
                raise RealtimeError(
                    f"unknown event {event['type'][:80]!r}; there are {known}",
                    "invalid_value",
                    "type",
                )
            await handler(session, event)
        except RealtimeError as error:
            session.run.note(error_event(error.body, event_id))
        except (DeploymentError, RequestError) as error:
            body = body_of(log_and_convert(error, self._id))
            if isinstance(error, OptionError):
                body["param"] = _PARAMS.get(error.option, body["param"])
            session.run.note(error_event(body, event_id))

    async def _update(self, session: OpenSession, event: Json) -> None:
        await self._configure(session, self._config.merged(event.get("session")))
        session.run.note(self._session_event("session.updated"))

    async def _update_beta(self, session: OpenSession, event: Json) -> None:
        await self._configure(session, self._config.merged(from_beta(event.get("session"))))
        self._rendering.is_beta = True
        shown = self._config.rendered_beta(self._id, self._expires_at)
        session.run.note(event_of("transcription_session.updated", session=shown))

    async def _configure(self, session: OpenSession, config: SessionConfig) -> None:
        names = await self._token_names(session, config)
        await session.configure(config.options())
        self._config, self._rendering.names = config, names

    async def _append(self, session: OpenSession, event: Json) -> None:
        audio = event.get("audio")
        if not isinstance(audio, str):
            raise RealtimeError("audio must be a string of base64", "invalid_type", "audio")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise RealtimeError("audio is not base64", "invalid_value", "audio") from None
        if len(data) > MAX_AUDIO_BYTES:
            raise RealtimeError(
                f"audio has {len(data)} bytes; at most {MAX_AUDIO_BYTES}",
                "audio_too_large",
                "audio",
            )
        await session.run.append(data)

    async def _commit(self, session: OpenSession, event: Json) -> None:
        try:
            session.run.commit()
        except EmptyBufferError as error:
            raise RealtimeError(
                f"the input audio buffer has {1000 * error.buffered_s:.2f} ms of audio; at least "
                f"{1000 * MIN_COMMIT_S:.0f} ms are needed",
                "input_audio_buffer_commit_empty",
            ) from None

    async def _clear(self, session: OpenSession, event: Json) -> None:
        session.run.clear()

    async def _retrieve(self, session: OpenSession, event: Json) -> None:
        session.run.note(self._rendering.retrieved(_item_id(event)))

    async def _delete(self, session: OpenSession, event: Json) -> None:
        session.run.note(self._rendering.deleted(_item_id(event)))

    def _rendered(self, event: Event | Note) -> list[Json]:
        return [event.content] if isinstance(event, Note) else self._rendering.events(event)

    def _fault(self, error: HttpError) -> Json:
        return error_event(body_of(error), None)

    async def _token_names(self, session: OpenSession, config: SessionConfig) -> TokenNames | None:
        if not config.wants_logprobs:
            return None
        if config.model == AUTO:
            raise RealtimeError(
                f"logprobs need a model other than {AUTO!r}: tokens differ between models",
                "unsupported",
                "session.include",
            )
        return await self._names(config.model)

    def _session_event(self, kind: str) -> Json:
        return event_of(kind, session=self._config.rendered(self._id, self._expires_at))


def _parsed(data: str | bytes) -> Json:
    """A client's event.

    Raises:
        RealtimeError: it is none.
    """
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise RealtimeError("the event is not JSON", "invalid_json") from None
    if not isinstance(event, dict):
        raise RealtimeError("an event is an object of JSON", "invalid_type")
    if not isinstance(event.get("type"), str):
        raise RealtimeError("an event needs its type", "missing_required_parameter", "type")
    return event


def error_event(error: Json, event_id: str | None) -> Json:
    """
    Args:
        event_id: the client's id of the event that was wrong.
    """
    return event_of("error", error={**error, "event_id": event_id})


def _item_id(event: Json) -> str:
    item_id = event.get("item_id")
    if not isinstance(item_id, str):
        raise RealtimeError("item_id must be given", "missing_required_parameter", "item_id")
    return item_id
