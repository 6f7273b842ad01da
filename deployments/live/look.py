"""A look of the model at a stretch of speech: what to decode, and what to think of the result."""

from dataclasses import dataclass, replace

import numpy as np

from deployments.fleet import Priority
from deployments.live.stretch import Heard, Stretch
from deployments.messages import Chunk, Pcm
from deployments.transcript.fallback import FallbackOptions, is_silence, looks_wrong
from deployments.transcript.loudness import raise_quiet
from deployments.transcript.scripts import words
from deployments.transcript.short_window import repeats_at_once
from engine import Window

TEMPERATURES = FallbackOptions((0.0, 0.4, 0.8))
"""Of a stretch that has ended; before, there is a next look anyhow."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A look to take: the chunk to decode, and what the session knows it by.

    Attributes:
        stop: the sample of the session up to which it hears.
    """

    chunk: Chunk
    stretch: Stretch
    stop: int

    @property
    def is_whole(self) -> bool:
        """Whether its text may be the last of its stretch, whatever the engine makes of the wish
        for a short window."""
        return self.chunk.window is Window.EXACT


def take_look(
    session_id: str,
    number: int,
    stretch: Stretch,
    audio: Pcm,
    stop: int,
    language: str | None,
    is_hurried: bool = False,
) -> Pass:
    """The look at a stretch's audio up to a sample.

    Args:
        audio: the stretch's, up to there.
        language: None: the model tells.
        is_hurried: let the encoder see no more than there is and some silence, which is half the
            work. A look that may be the last gets a whole window all the same.
    """
    is_last = stretch.stop is not None
    may_be_last = is_last or stretch.is_covered_by(stop)
    options = replace(
        stretch.decoding,
        language=language,
        timestamps=False,
        words=may_be_last or stretch.policy.wants_words,
        prompt=stretch.prompt or None,
        prefix=stretch.lead.tokens + stretch.said.tokens,
        temperature=TEMPERATURES.temperatures[len(stretch.attempts)] if is_last else 0.0,
        max_new_tokens=stretch.max_new_tokens(stop),
    )
    n_lead = len(stretch.lead.pcm)
    own = tuple((first + n_lead, last + n_lead) for first, last in stretch.speech(stop))
    speech = stretch.lead.speech + own
    pcm = np.concatenate([stretch.lead.pcm, audio])
    # What ends a turn goes before looks at turns that go on.
    priority = Priority.REALTIME.rank - may_be_last
    chunk = Chunk(
        session_id,
        number,
        raise_quiet(pcm, speech),
        options,
        priority,
        speech=speech,
        window=Window.SHORT if is_hurried and not may_be_last else Window.EXACT,
    )
    return Pass(chunk, stretch, stop)


def is_wrong(stretch: Stretch, heard: Heard) -> bool:
    """Whether a result should be decoded again."""
    return is_nothing(stretch, heard) or looks_wrong(heard.result, TEMPERATURES)


def is_doubtful(stretch: Stretch, heard: Heard) -> bool:
    """Whether a whole window may give another text than a short one: where that has loops, goes on
    for too long, or has nothing new."""
    new = words(stretch.text(stretch.hypothesis(heard.result)).decode("utf-8", "replace"))
    return (
        not new
        or repeats_at_once(new)
        or heard.result.finish_reason != "stop"
        or stretch.is_cut_short(heard)
        or is_wrong(stretch, heard)
    )


def is_nothing(stretch: Stretch, heard: Heard) -> bool:
    """Whether a result is no text of its speech."""
    return is_silence(heard.result, TEMPERATURES) or stretch.outruns_voice(heard)
