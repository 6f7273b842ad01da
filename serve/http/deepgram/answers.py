"""Answers of `/v1/listen` over HTTP: a file's transcript, and errors."""

from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from deployments.messages import Transcript, TranscriptSegment
from serve.http.deepgram.query import FileQuery
from serve.http.deepgram.rendering import confidence_of, error_message, model_info, words_of
from serve.http.errors import HttpError
from serve.http.live_sockets import POLICY, Closed, Json, close

_ERROR_CODES = {401: "INVALID_AUTH", 429: "TOO_MANY_REQUESTS", 500: "INTERNAL_SERVER_ERROR"}


def answer_object(transcript: Transcript, query: FileQuery, head: Json) -> Json:
    """A file's transcript as Deepgram's object.

    Args:
        head: what of `metadata` is known without it.
    """
    words = [word for segment in transcript.segments for word in segment.words]
    alternative: Json = {
        "transcript": transcript.text.strip(),
        "confidence": confidence_of(words),
        "words": words_of(words),
    }
    if query.is_multi:
        languages = transcript.languages or (transcript.language,)
        alternative["languages"] = [language for language in languages if language]
    channel: Json = {"alternatives": [alternative]}
    if query.spoken is None or query.detect_language:
        channel["detected_language"] = transcript.language
    results: Json = {"channels": [channel]}
    if query.utterances:
        results["utterances"] = [
            _utterance(segment, f"{head['request_id']}-{index}")
            for index, segment in enumerate(transcript.segments)
        ]
    models = sorted({segment.model for segment in transcript.segments})
    metadata = {
        "transaction_key": "deprecated",
        **head,
        "duration": round(transcript.duration_s, 3),
        "channels": 1,
        "models": models,
        "model_info": {model: model_info(model) for model in models},
    }
    return {"metadata": metadata, "results": results}


def error_answer(error: HttpError, request_id: str) -> JSONResponse:
    """The answer for an error, in Deepgram's shape."""
    code = _ERROR_CODES.get(error.status, (error.code or error.type).upper())
    body = {"err_code": code, "err_msg": error.message, "request_id": request_id}
    headers = {**error.headers, "dg-request-id": request_id, "dg-error": _line(error.message)}
    return JSONResponse(body, error.status, headers)


async def refuse(socket: WebSocket, error: HttpError, request_id: str) -> None:
    """Refuse a connection that is not accepted: with the error's status, or where the proxy cannot
    pass that on, by closing it at once."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(error_answer(error, request_id))
        return
    await socket.accept()
    await close(socket, Closed(POLICY, _line(error.message), error_message(error)))


def _utterance(segment: TranscriptSegment, name: str) -> dict[str, Any]:
    return {
        "start": segment.start_s,
        "end": segment.end_s,
        "confidence": confidence_of(segment.words),
        "channel": 0,
        "transcript": segment.text.strip(),
        "words": words_of(segment.words),
        "id": name,
    }


def _line(message: str) -> str:
    """A message as a header may have it."""
    return "".join(c if " " <= c <= "~" else "?" for c in message)
