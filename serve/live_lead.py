"""The turn that a new connection of a live session hears once more, although its text was told.

With a voice before them, a model mishears fewer first words. So the end of the last turn is sent
again in front of what has no text yet, and what is told of it is left out.
"""

from collections.abc import Iterator
from dataclasses import replace

from deployments.live.events import Completed, Delta, Event, SpeechStarted

_SAME_S = 0.3
"""By how much two connections may disagree about where a turn begins and ends."""


class Lead:
    """The turn that a new connection hears once more, although its text is final: the first one.

    Args:
        done_s: end of the audio whose text was told.
    """

    def __init__(self, done_s: float) -> None:
        self._done_s = done_s
        self._item_id: str | None = None

    def is_of(self, event: Event, item_id: str) -> bool:
        """Whether an event belongs to that turn."""
        if self._item_id is None:
            is_new = isinstance(event, SpeechStarted) and event.start_s >= self._done_s - _SAME_S
            self._item_id = "" if is_new else item_id
        return item_id == self._item_id

    def rest(self, turn: Completed) -> Iterator[Event]:
        """What the turn says beyond what was told, where it goes on with the next one."""
        if turn.end_s <= self._done_s + _SAME_S:
            return
        words = tuple(word for word in turn.words if word.end_s > self._done_s + _SAME_S)
        text = "".join(word.text for word in words)
        if text.strip():
            yield Delta(turn.item_id, text)
            yield replace(turn, text=text, words=words, start_s=self._done_s)
