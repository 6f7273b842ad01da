"""Events of a live session as Deepgram's messages.

Our text never changes, so an interim result is all words since the last final one. A final result
comes at the end of a turn and, within a long one, for each few seconds of words.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from deployments.live.events import (
    Committed,
    Completed,
    Delta,
    Event,
    Failed,
    SpeechStarted,
    SpeechStopped,
)
from engine import Word
from serve.http.deepgram.query import LiveQuery
from serve.http.errors import HttpError, log_and_convert
from serve.http.live_sockets import Json

_FINAL_S = 5.0
"""Words of so many seconds within a turn become a final result."""
_CHANNEL = [0, 1]
"""The first of one."""
_EDGES = re.compile(r"^[^\w]+|[^\w]+$")


@dataclass(slots=True)
class _Turn:
    """What was told of a turn.

    Attributes:
        start_s: where the next result begins.
        text: since the last final result; `words` likewise.
        n_letters, n_words: in final results.
        is_heard_out: whether it ended with a silence.
        is_finalized: whether the client ended it.
    """

    start_s: float
    text: str = ""
    words: list[Word] = field(default_factory=list)
    n_letters: int = 0
    n_words: int = 0
    is_heard_out: bool = False
    is_finalized: bool = False


class Rendering:
    """Writes the messages of one session.

    Args:
        query: what the client asked for.
        request_id: names the connection.
    """

    def __init__(self, query: LiveQuery, request_id: str) -> None:
        self.model = ""
        self._query = query
        self._request_id = request_id
        self._turns: dict[str, _Turn] = {}
        self._done_s = 0.0
        self._last_word_s: float | None = None
        self._finalizes = False

    def events(self, event: Event) -> list[Json]:
        """The messages for an event."""
        match event:
            case SpeechStarted():
                self._last_word_s = None
                self._turns[event.item_id] = _Turn(event.start_s)
                started = {"type": "SpeechStarted", "channel": _CHANNEL, "timestamp": event.start_s}
                return [started] if self._query.vad_events else []
            case SpeechStopped():
                self._turn(event.item_id).is_heard_out = True
            case Delta():
                return self._delta(event)
            case Committed():
                self._turn(event.item_id).is_finalized = self._finalizes
                self._finalizes = False
            case Completed():
                return self._completed(event)
            case Failed():
                self._turns.pop(event.item_id, None)
                return [error_message(log_and_convert(event.error, self._request_id))]
        return []

    def finalize(self) -> None:
        """The turn that is committed next is one that the client ends."""
        self._finalizes = True

    def nothing_to_finalize(self) -> list[Json]:
        """The answer where there is no audio to finalize."""
        self._finalizes = False
        return [self._result(_Turn(self._done_s, is_finalized=True), self._done_s, [], True)]

    def utterance_end(self, position_s: float) -> list[Json]:
        """What to say when nobody speaks.

        Args:
            position_s: seconds of audio so far.
        """
        last_s, gap_ms = self._last_word_s, self._query.utterance_end_ms
        if last_s is None or gap_ms is None or position_s - last_s < gap_ms / 1000:
            return []
        self._last_word_s = None
        return [{"type": "UtteranceEnd", "channel": _CHANNEL, "last_word_end": last_s}]

    def _turn(self, item_id: str) -> _Turn:
        return self._turns.setdefault(item_id, _Turn(self._done_s))

    def _delta(self, event: Delta) -> list[Json]:
        turn = self._turn(event.item_id)
        turn.text += event.text
        turn.words += event.words
        if not turn.words:
            return []
        end_s = self._last_word_s = turn.words[-1].end_s
        if end_s - turn.words[0].start_s >= _FINAL_S and _is_whole(turn):
            return [self._final_part(turn, end_s)]
        if not self._query.interim_results:
            return []
        return [self._result(turn, end_s, [], False)]

    def _final_part(self, turn: _Turn, end_s: float) -> Json:
        """A final result in the middle of a turn."""
        told = self._result(turn, end_s, [], True, part=True)
        turn.n_letters += len(turn.text)
        turn.n_words += len(turn.words)
        turn.text, turn.words, turn.start_s = "", [], end_s
        return told

    def _completed(self, event: Completed) -> list[Json]:
        turn = self._turn(event.item_id)
        del self._turns[event.item_id]
        turn.text = event.text[turn.n_letters :]
        turn.words = list(event.words[turn.n_words :])
        self._done_s = event.end_s
        if event.words:
            self._last_word_s = event.words[-1].end_s
        if not turn.text and not turn.is_finalized and not (event.text and turn.is_heard_out):
            return []
        return [self._result(turn, event.end_s, [event.language] if event.language else [], True)]

    def _result(
        self, turn: _Turn, end_s: float, languages: list[str], is_final: bool, part: bool = False
    ) -> Json:
        """
        Args:
            part: whether the turn goes on behind it.
        """
        alternative: Json = {
            "transcript": turn.text.strip(),
            "confidence": confidence_of(turn.words),
            "words": words_of(turn.words),
        }
        if self._query.is_multi and is_final:
            alternative["languages"] = languages
        return {
            "type": "Results",
            "channel_index": _CHANNEL,
            "duration": round(max(end_s - turn.start_s, 0.0), 3),
            "start": round(turn.start_s, 3),
            "is_final": is_final,
            "speech_final": is_final and turn.is_heard_out and not part,
            "channel": {"alternatives": [alternative]},
            "metadata": {
                "request_id": self._request_id,
                "model_info": model_info(self.model),
                "model_uuid": self.model,
            },
            "from_finalize": is_final and turn.is_finalized and not part,
        }


def error_message(error: HttpError) -> Json:
    """The message for what would be an HTTP error elsewhere."""
    return {
        "type": "Error",
        "variant": error.code or error.type,
        "description": error.message,
        "message": error.message,
    }


def words_of(words: Iterable[Word]) -> list[Json]:
    """Words as Deepgram writes them: bare, and as they stand in the text."""
    return [
        {
            "word": _EDGES.sub("", word.text).lower() or word.text.strip(),
            "start": word.start_s,
            "end": word.end_s,
            "confidence": word.probability,
            "punctuated_word": word.text.strip(),
        }
        for word in words
    ]


def confidence_of(words: Iterable[Word]) -> float:
    """The mean probability of words; 0 without words, as Deepgram has it."""
    probabilities = [word.probability for word in words]
    return round(sum(probabilities) / len(probabilities), 4) if probabilities else 0.0


def model_info(model: str) -> dict[str, Any]:
    return {"name": model, "version": "", "arch": "whisper"}


def _is_whole(turn: _Turn) -> bool:
    """Whether the text ends with its last word, not within the next one."""
    return turn.text.rstrip().endswith(turn.words[-1].text.strip())
