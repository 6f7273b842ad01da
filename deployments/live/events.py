"""What a live session says. Times are seconds of audio from the session's beginning."""

from dataclasses import dataclass

from engine import Word


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody began to speak. `start_s` is where the turn's audio begins, a little before that."""

    item_id: str
    start_s: float


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The turn ended with a silence. `end_s` is where its audio ends, that silence included."""

    item_id: str
    end_s: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Nobody spoke for the idle time: the silent audio is committed as an item of its own."""

    item_id: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Committed:
    """The turn's audio is complete. `previous_item_id` is that of the turn before, None at the
    first."""

    item_id: str
    previous_item_id: str | None


@dataclass(frozen=True, slots=True)
class Cleared:
    """Audio that was not committed is forgotten."""


@dataclass(frozen=True, slots=True)
class Delta:
    """More of a turn's text, which never changes again. `tokens` are those of `text`, `logprobs`
    the natural logarithms of their probabilities. `words` are those that are whole now; their times
    may still be a little different when the turn is completed."""

    item_id: str
    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Completed:
    """A turn's whole text: all its deltas, one after another.

    Attributes:
        start_s, end_s: of the turn's audio.
        words: with their times.
        language: ISO code; empty if nothing was said.
    """

    item_id: str
    text: str
    start_s: float
    end_s: float
    language: str = ""
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Failed:
    """A turn that could not be transcribed to its end. Deltas before it are right."""

    item_id: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Lagging:
    """Text is further behind the audio than it should be (`lag_s`), or has caught up (0)."""

    lag_s: float


Event = (
    SpeechStarted
    | SpeechStopped
    | TimedOut
    | Committed
    | Cleared
    | Delta
    | Completed
    | Failed
    | Lagging
)
