"""What a chunk is told of the text before it.

Chunks stand in rows. Within a row each is decoded after the one before it, with its text as the
prompt, timestamps included (openai/whisper's `condition_on_previous_text`). Rows know nothing of
each other and run side by side. A row of one is a chunk on its own.
"""

from collections.abc import Sequence

from deployments.messages import TranscriptSegment

MAX_TOKENS = 223
"""More than this the engine does not take of a prompt, so no more needs to travel."""
MAX_TEMPERATURE = 0.5
"""Hotter text is a guess, and guesses breed: openai/whisper, too, starts afresh behind it."""


class RowContext:
    """The context of each chunk of a file, as far as it is known."""

    def __init__(self, row_length: int) -> None:
        self._row_length = row_length
        self._tokens: dict[int, tuple[int, ...]] = {}

    def is_known(self, index: int) -> bool:
        """Whether a chunk may be decoded yet."""
        return self._begins_row(index) or index in self._tokens

    def tokens(self, index: int) -> tuple[int, ...]:
        return self._tokens.get(index, ())

    def hand_on(self, index: int, segments: Sequence[TranscriptSegment]) -> None:
        """A chunk is final: its context and its text become the next one's context."""
        before = self._tokens.pop(index, ())
        if self._begins_row(index + 1):
            return
        hot = any(segment.temperature > MAX_TEMPERATURE for segment in segments)
        self._tokens[index + 1] = () if hot else with_text(before, segments)

    def _begins_row(self, index: int) -> bool:
        return index % self._row_length == 0


def with_text(before: tuple[int, ...], segments: Sequence[TranscriptSegment]) -> tuple[int, ...]:
    """A context, and behind it the tokens of some segments."""
    tokens = tuple(token for segment in segments for token in segment.tokens)
    return (before + tokens)[-MAX_TOKENS:]
