"""A WebSocket of Deepgram's `/v1/listen`: audio and controls in, results out."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.websockets import WebSocket, WebSocketState

from deployments.entrance.live import Note
from deployments.entrance.live_sessions import LiveSessions, OpenSession
from deployments.errors import DeploymentError
from deployments.live.events import Event
from deployments.live.session import EmptyBufferError
from engine import RequestError
from serve.http.deepgram.answers import refuse
from serve.http.deepgram.query import LiveQuery
from serve.http.deepgram.rendering import Rendering, error_message, model_info
from serve.http.errors import HttpError, log_and_convert
from serve.http.live_sockets import NORMAL, Closed, Json, LiveSocket, close

_MAX_SHOWN = 200
"""Characters of a message that is told back."""


class DeepgramSocket(LiveSocket):
    """One connection.

    Args:
        socket: not accepted: what is wrong with the address is an answer with its status.
        sessions: where sessions are opened.
        request_id: names the connection.
        query: what its address asks for.
        protocol: the subprotocol to accept.
    """

    def __init__(
        self,
        socket: WebSocket,
        sessions: LiveSessions,
        request_id: str,
        query: LiveQuery,
        protocol: str | None,
    ) -> None:
        super().__init__(socket, sessions, request_id)
        self._query = query
        self._protocol = protocol
        self._rendering = Rendering(query, request_id)
        self._sum = hashlib.sha256()
        self._created = datetime.now(UTC)
        self._is_finished = False

    async def serve(self, knows: Callable[[str], bool]) -> None:
        """Serve the connection to its end.

        Args:
            knows: whether a model of this name is there.
        """
        await self._run(lambda: self._query.options(knows), self._id)

    async def _begin(self, session: OpenSession) -> None:
        self._rendering.model = session.run.session.model.name
        await self._socket.accept(self._protocol, [(b"dg-request-id", self._id.encode())])

    async def _fail(self, error: HttpError, code: int) -> None:
        if self._socket.application_state is WebSocketState.CONNECTING:
            await refuse(self._socket, error, self._id)
        else:
            await super()._fail(error, code)

    async def _take(self, session: OpenSession, data: str | bytes) -> None:
        if isinstance(data, str):
            await self._control(session, data)
        elif self._is_finished:
            return  # audio behind the end
        elif data:
            self._sum.update(data)
            await session.run.append(data)
            if self._query.utterance_end_ms is not None:
                session.run.note(self._utterance_end(session))
        else:  # how old clients say CloseStream
            self._finish(session)

    async def _control(self, session: OpenSession, text: str) -> None:
        match _type_of(text):
            case "KeepAlive":
                pass
            case "Finalize":
                self._finalize(session)
            case "CloseStream":
                self._finish(session)
            case "Configure":
                await self._configure(session, json.loads(text))
            case _:
                known = "KeepAlive, Finalize, CloseStream and Configure"
                schema = {
                    "type": "Error",
                    "variant": "SchemaError",
                    "description": f"a text message is JSON of the type {known}",
                    "message": text[:_MAX_SHOWN],
                }
                session.run.note(lambda: [schema])

    def _finalize(self, session: OpenSession) -> None:
        session.run.note(self._finalizing)
        try:
            session.run.commit()
        except EmptyBufferError:
            session.run.note(self._rendering.nothing_to_finalize)

    def _finalizing(self) -> list[Json]:
        self._rendering.finalize()
        return []

    def _finish(self, session: OpenSession) -> None:
        if not self._is_finished:
            self._is_finished = True
            session.run.finish()

    async def _configure(self, session: OpenSession, message: dict[str, Any]) -> None:
        """Take other keywords; `features` say nothing that would change the text."""
        terms = message.get("keyterms")
        answer: Json = {"request_id": self._id}
        try:
            if terms is not None:
                if not isinstance(terms, list) or not all(isinstance(t, str) for t in terms):
                    raise RequestError("keyterms are a list of texts")
                await session.configure(replace(session.options, keywords=tuple(terms)))
                answer["keyterms"] = terms
        except (DeploymentError, RequestError) as error:
            found = log_and_convert(error, self._id)
            failure = {"type": "ConfigureFailure", "code": "CONFIGURE_INTERNAL_ERROR"}
            told = {**failure, **answer, "description": found.message}
            session.run.note(lambda: [told])
            return
        session.run.note(lambda: [{"type": "ConfigureSuccess", **answer}])

    def _utterance_end(self, session: OpenSession) -> Callable[[], list[Json]]:
        """What is said, behind all that was heard before, if nobody speaks now."""
        position_s = session.run.session.position_s
        quiet = session.run.session.lag_s == 0.0
        return lambda: self._rendering.utterance_end(position_s) if quiet else []

    async def _say(self, session: OpenSession) -> None:
        await super()._say(session)
        for message in self._rendering.utterance_end(session.run.session.position_s):
            self._tell(message)
        self._tell(self._metadata(session))

    def _rendered(self, event: Event | Note) -> list[Json]:
        if isinstance(event, Note):
            found: list[Json] = event.content()
            return found
        return self._rendering.events(event)

    def _fault(self, error: HttpError) -> Json:
        return error_message(error)

    async def _talk(self, session: OpenSession) -> None:
        await super()._talk(session)
        if self._is_finished:
            await close(self._socket, Closed(NORMAL, ""))

    def _metadata(self, session: OpenSession) -> Json:
        return {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self._id,
            "sha256": self._sum.hexdigest(),
            "created": self._created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "duration": round(session.run.session.position_s, 3),
            "channels": 1,
            "models": [self._rendering.model],
            "model_info": {self._rendering.model: model_info(self._rendering.model)},
        }


def _type_of(text: str) -> str:
    """The type of a message; empty if it is none."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    found = message.get("type") if isinstance(message, dict) else None
    return found if isinstance(found, str) else ""
