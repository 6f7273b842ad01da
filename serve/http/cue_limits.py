"""Limits of subtitles' cues. Nothing is imported here, so that help is fast."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CueLimits:
    """Limits of a cue. A single word may exceed them.

    Args:
        max_line_width: characters of a line.
        max_line_count: lines of a cue.
        max_words_per_line: words of a line; None: any number.
        max_cue_s: seconds of a cue.
        highlight_words: whether each word is underlined while it is said.
    """

    max_line_width: int = 42
    max_line_count: int = 2
    max_words_per_line: int | None = None
    max_cue_s: float = 7.0
    highlight_words: bool = False
