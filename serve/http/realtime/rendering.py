"""Events of a live session as OpenAI's server events."""

import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

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
from serve.http.answers import TokenNames
from serve.http.errors import log_and_convert
from serve.http.realtime.errors import RealtimeError, body_of

_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_MAX_ITEMS = 1_000
"""Items that a client can still ask for."""

Json = dict[str, Any]


class Rendering:
    """Writes the events of one session, and keeps its items.

    Attributes:
        names: given if the client wants log-probabilities.
        is_beta: whether the client speaks the API as it was before its general availability.
    """

    def __init__(self, session_id: str) -> None:
        self.names: TokenNames | None = None
        self.is_beta = False
        self._session_id = session_id
        self._items: OrderedDict[str, Json] = OrderedDict()

    def events(self, event: Event) -> list[Json]:
        """The server events for an event."""
        write: Callable[[Any], list[Json]] = _WRITERS[type(event)]
        return write(self, event)  # type: ignore[call-arg]

    def retrieved(self, item_id: str) -> Json:
        """
        Raises:
            RealtimeError: there is no such item.
        """
        return event_of("conversation.item.retrieved", item=self._item(item_id))

    def deleted(self, item_id: str) -> Json:
        """Forget an item.

        Raises:
            RealtimeError: there is no such item.
        """
        self._item(item_id)
        del self._items[item_id]
        return event_of("conversation.item.deleted", item_id=item_id)

    def _item(self, item_id: str) -> Json:
        if item_id not in self._items:
            raise RealtimeError(f"there is no item {item_id!r}", "item_not_found", "item_id")
        return self._items[item_id]

    def _speech_started(self, event: SpeechStarted) -> list[Json]:
        return [
            event_of(
                "input_audio_buffer.speech_started",
                audio_start_ms=_ms(event.start_s),
                item_id=event.item_id,
            )
        ]

    def _speech_stopped(self, event: SpeechStopped) -> list[Json]:
        return [
            event_of(
                "input_audio_buffer.speech_stopped",
                audio_end_ms=_ms(event.end_s),
                item_id=event.item_id,
            )
        ]

    def _timed_out(self, event: TimedOut) -> list[Json]:
        return [
            event_of(
                "input_audio_buffer.timeout_triggered",
                audio_start_ms=_ms(event.start_s),
                audio_end_ms=_ms(event.end_s),
                item_id=event.item_id,
            )
        ]

    def _committed(self, event: Committed) -> list[Json]:
        item: Json = {
            "id": event.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        self._items[event.item_id] = item
        while len(self._items) > _MAX_ITEMS:
            self._items.popitem(last=False)
        before = event.previous_item_id
        names = ["created"] if self.is_beta else ["added", "done"]
        return [
            event_of(
                "input_audio_buffer.committed", previous_item_id=before, item_id=event.item_id
            ),
            *(
                event_of(f"conversation.item.{name}", previous_item_id=before, item=item)
                for name in names
            ),
        ]

    def _cleared(self, event: Cleared) -> list[Json]:
        return [event_of("input_audio_buffer.cleared")]

    def _delta(self, event: Delta) -> list[Json]:
        more: Json = {}
        if self.names is not None:
            more["logprobs"] = self.names.of_tokens(event.tokens, event.logprobs)
        return [
            event_of(
                f"{_TRANSCRIPTION}.delta",
                item_id=event.item_id,
                content_index=0,
                delta=event.text,
                **more,
            )
        ]

    def _completed(self, event: Completed) -> list[Json]:
        if event.item_id in self._items:
            # A new object: the old one may be in an event that is still to be written.
            item = dict(self._items[event.item_id])
            item["content"] = [{"type": "input_audio", "transcript": event.text}]
            self._items[event.item_id] = item
        more: Json = {}
        if self.names is not None:
            more["logprobs"] = self.names.of_tokens(event.tokens, event.logprobs)
        words = [
            {
                "word": word.text.strip(),
                "start": word.start_s,
                "end": word.end_s,
                "probability": word.probability,
            }
            for word in event.words
        ]
        return [
            event_of(
                f"{_TRANSCRIPTION}.completed",
                item_id=event.item_id,
                content_index=0,
                transcript=event.text,
                audio_start_ms=_ms(event.start_s),
                audio_end_ms=_ms(event.end_s),
                usage={"type": "duration", "seconds": round(event.duration_s, 3)},
                languages=[{"code": event.language}] if event.language else [],
                words=words,
                **more,
            )
        ]

    def _failed(self, event: Failed) -> list[Json]:
        return [
            event_of(
                f"{_TRANSCRIPTION}.failed",
                item_id=event.item_id,
                content_index=0,
                error=body_of(log_and_convert(event.error, self._session_id)),
            )
        ]

    def _lagging(self, event: Lagging) -> list[Json]:
        return [event_of("murmur.lagging", lag_ms=_ms(event.lag_s))]


_WRITERS: dict[type, Any] = {
    SpeechStarted: Rendering._speech_started,
    SpeechStopped: Rendering._speech_stopped,
    TimedOut: Rendering._timed_out,
    Committed: Rendering._committed,
    Cleared: Rendering._cleared,
    Delta: Rendering._delta,
    Completed: Rendering._completed,
    Failed: Rendering._failed,
    Lagging: Rendering._lagging,
}


def event_of(kind: str, **fields: Any) -> Json:
    """A server event of this type."""
    return {"type": kind, "event_id": f"event_{uuid.uuid4().hex[:21]}", **fields}


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
