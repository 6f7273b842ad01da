"""What a chunk is told of the text before it.

Chunks form rows. Within a row, each chunk is decoded after the one before it and gets the text so
far as its prompt, including timestamps (openai/whisper's `condition_on_previous_text`). Rows are
independent of each other and run side by side. In rows of one, every chunk is on its own.
"""

from collections.abc import Sequence

from deployments.messages import TranscriptSegment

MAX_TOKENS = 223
"""The engine takes at most this many tokens of a prompt, so no more need to travel."""
MAX_TEMPERATURE = 0.5
"""Text decoded at a higher temperature is a guess, and as context it leads to more guesses.
openai/whisper, too, resets its prompt after such text."""


class RowContext:
    """The context of each chunk of a file, as far as it is known."""

    def __init__(self, row_length: int) -> None:
        self._row_length = row_length
        self._tokens: dict[int, tuple[int, ...]] = {}

    def is_known(self, index: int) -> bool:
        """Whether the context of a chunk is known, so that it may be decoded."""
        return self._begins_row(index) or index in self._tokens

    def tokens(self, index: int) -> tuple[int, ...]:
        return self._tokens.get(index, ())

    def hand_on(self, index: int, segments: Sequence[TranscriptSegment]) -> None:
        """Take the final text of a chunk: its context and its text become the next one's
        context."""
        before = self._tokens.pop(index, ())
        if self._begins_row(index + 1):
            return
        hot = any(segment.temperature > MAX_TEMPERATURE for segment in segments)
        self._tokens[index + 1] = () if hot else with_text(before, segments)

    def _begins_row(self, index: int) -> bool:
        return index % self._row_length == 0


def with_text(before: tuple[int, ...], segments: Sequence[TranscriptSegment]) -> tuple[int, ...]:
    """A context followed by the tokens of some segments; at most the last `MAX_TOKENS`."""
    tokens = tuple(token for segment in segments for token in segment.tokens)
    return (before + tokens)[-MAX_TOKENS:]
