"""Live sessions in the simulator: who speaks when, and the looks at it that follow from that.

A session is as `deployments.live.session` has it: one look is out at a time, the next one is due
with so much new audio, and the one that may be the last a moment after the voice. Looks wait for
slots as chunks of files do.
"""

import heapq
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmarks.simulation.cluster import SimChunk
from deployments.fleet import Priority
from deployments.live.options import DEFAULT_DELAY, PACES, SessionOptions, TurnOptions

LOOK_WORK_S = 8.0
"""Seconds of a file's audio that take as long as one look: a window is encoded, and few tokens are
decoded. An assumption."""
_FIRST_LOOK_S, _SETTLED_S, _LONGEST_S = 1.0, 0.2, 28.0
"""As in `deployments.live.session` and `stretch`."""
_SPEECH_S, _PAUSE_S, _SPREAD = 4.0, 1.5, 0.7
"""Medians of turns and of the pauses between, and the standard deviation of their logarithms."""


class Talk(NamedTuple):
    """A session: when it begins, how long somebody talks, and in which language."""

    at_s: float
    length_s: float
    language: str


@dataclass(slots=True)
class Lags:
    """What the listeners felt, in seconds.

    Attributes:
        answers: from sending a look to its text.
        words: from the end of a word to its text, on average over the words of a look.
        turns: from the end of a turn to its whole text.
    """

    answers: "array[float]" = field(default_factory=lambda: array("f"))
    words: "array[float]" = field(default_factory=lambda: array("f"))
    turns: "array[float]" = field(default_factory=lambda: array("f"))


@dataclass(eq=False, slots=True)
class Session:
    """One speaker.

    Attributes:
        tier: that hears it; empty: not chosen yet.
        began_s, voice_s: of the turn, where its voice begins and ends.
        heard_s: up to where the last look heard.
        sent_s: when the look that is out was sent, which heard up to then.
    """

    language: str
    ends_s: float
    began_s: float
    voice_s: float = 0.0
    heard_s: float = 0.0
    sent_s: float = 0.0
    tier: str = ""

    @property
    def is_last_look(self) -> bool:
        return self.sent_s >= self.voice_s + _SETTLED_S


class LiveLoad:
    """All sessions.

    Args:
        talks: in order of time.
        work_s: seconds of a file's audio that take as long as a look.
        priority: of looks.
    """

    def __init__(
        self,
        talks: Iterator[Talk],
        seed: int,
        work_s: float = LOOK_WORK_S,
        priority: Priority = Priority.REALTIME,
    ) -> None:
        self.lags = Lags()
        self._talks = talks
        self._coming = next(talks, None)
        self._work_s = work_s
        self._priority = priority
        self._rng = np.random.default_rng([seed, 3])
        self._pace = PACES[DEFAULT_DELAY]
        self._due: list[tuple[float, int, Session]] = []
        self._n = 0

    @property
    def next_s(self) -> float:
        """When the next look is due, or the next session begins."""
        coming_s = self._coming.at_s if self._coming is not None else float("inf")
        return min(coming_s, self._due[0][0] if self._due else float("inf"))

    def step(self) -> tuple[Session, SimChunk] | None:
        """What happens at `next_s`: a look to send, or nothing to see yet."""
        coming = self._coming
        if coming is not None and coming.at_s <= (self._due[0][0] if self._due else float("inf")):
            self._coming = next(self._talks, None)
            session = Session(coming.language, coming.at_s + coming.length_s, coming.at_s)
            self._begin_turn(session, coming.at_s, coming.at_s)
            return None
        now, _, session = heapq.heappop(self._due)
        session.sent_s = now
        audio_s = SessionOptions().lead_s + now - session.began_s
        look = SimChunk(min(audio_s, 30.0), session.language, self._priority, now)
        look.work_s = self._work_s
        look.session = session
        return session, look

    def answered(self, session: Session, now: float) -> None:
        """The text of a look is there."""
        lags = self.lags
        lags.answers.append(now - session.sent_s)
        until_s = min(session.sent_s - self._pace.margin_s, session.voice_s)
        if session.is_last_look:
            until_s = session.voice_s
        if until_s > session.heard_s:
            lags.words.append(now - (session.heard_s + until_s) / 2)
            session.heard_s = until_s
        if not session.is_last_look:
            due_s = min(session.sent_s + self._pace.interval_s, session.voice_s + _SETTLED_S)
            self._push(max(due_s, now), session)
            return
        turn_s = session.voice_s + TurnOptions().silence_s
        lags.turns.append(max(0.0, now - turn_s))
        begins_s = session.voice_s + max(TurnOptions().silence_s, self._drawn(_PAUSE_S))
        if begins_s < session.ends_s:
            self._begin_turn(session, begins_s, now)

    def _begin_turn(self, session: Session, at_s: float, now: float) -> None:
        session.began_s = session.heard_s = at_s
        session.voice_s = at_s + min(max(self._drawn(_SPEECH_S), 0.3), _LONGEST_S)
        due_s = min(at_s + _FIRST_LOOK_S, session.voice_s + _SETTLED_S)
        self._push(max(due_s, now), session)

    def _drawn(self, median_s: float) -> float:
        return float(median_s * np.exp(_SPREAD * self._rng.standard_normal()))

    def _push(self, at_s: float, session: Session) -> None:
        self._n += 1
        heapq.heappush(self._due, (at_s, self._n, session))


def steady_talks(n: int, start_s: float, end_s: float, english: float, seed: int) -> Iterator[Talk]:
    """So many people who talk all the time; they begin within the first minute."""
    rng = np.random.default_rng([seed, 4])
    begins_s = np.sort(rng.uniform(start_s, start_s + 60.0, n))
    for at_s in begins_s.tolist():
        yield Talk(at_s, end_s - at_s, "en" if rng.random() < english else "fr")
