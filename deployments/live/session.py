"""A live session as a state machine: audio and results come in, passes and events go out.

A pass is one look of the model at the stretch of speech that goes on, from its beginning to now.
Its text goes on behind the words that are final, which are given to it as a prefix. What a policy
takes from it is final and told at once. When the stretch ends, a pass that heard all of it gives
the rest.

At most one pass of a session is out, and the next one begins with all the audio that has come by
then. So where the cluster is slow there are fewer looks, and the delay does not grow.
"""

import uuid
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from deployments.live.audio_buffer import AudioBuffer
from deployments.live.events import (
    Cleared,
    Committed,
    Event,
    Failed,
    Lagging,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
)
from deployments.live.look import (
    TEMPERATURES,
    Pass,
    is_doubtful,
    is_nothing,
    is_wrong,
    take_look,
)
from deployments.live.options import SessionOptions, TurnOptions
from deployments.live.policy import new_policy
from deployments.live.stretch import PAUSE_S, Heard, Lead, Model, Stretch
from deployments.live.turn import Turn
from deployments.live.voice import Frame, VoiceStream
from deployments.live.voice_tracker import VoiceTracker
from deployments.messages import ChunkResult
from deployments.transcript.fallback import best_result, is_silence
from engine import SAMPLE_RATE

MIN_COMMIT_S = 0.1
"""A client may not commit less audio than this."""
_FIRST_LOOK_S = 1.0
"""A model that hears less than this guesses the first words."""
_SETTLED_S = 0.2
"""A pause after which there is a look that may turn out to be the last one."""
_SURE_LANGUAGE = 0.7
_MAX_CONTEXT_CHARACTERS = 1_000
_LAGS_S, _CAUGHT_UP_S = 10.0, 3.0


class EmptyBufferError(Exception):
    """There is too little audio to commit."""

    def __init__(self, buffered_s: float) -> None:
        super().__init__(f"{1000 * buffered_s:.0f} ms of audio are too few to commit")
        self.buffered_s = buffered_s


class LiveSession:
    """One speaker's audio.

    Args:
        session_id: unique; passes are chunks of this request.
        options: what is asked for.
        model: what hears it.
        new_id: names items.
    """

    def __init__(
        self,
        session_id: str,
        options: SessionOptions,
        model: Model,
        new_id: Callable[[], str] = lambda: f"item_{uuid.uuid4().hex[:21]}",
    ) -> None:
        self.session_id = session_id
        self.options = options
        self.model = model
        self._new_id = new_id
        self._audio = AudioBuffer()
        self._voice = VoiceStream()
        self._tracker = VoiceTracker()
        self._begin = 0
        self._turn: Turn | None = None
        self._unfinished: list[Turn] = []
        self._passes: dict[int, Pass] = {}
        self._n_passes = 0
        self._before: str | None = None
        self._said = ""
        self._language: str | None = None
        self._lead: tuple[str, Lead] | None = None
        self._idle_since = 0
        self._lags = False
        self._is_behind = False

    @property
    def position_s(self) -> float:
        """Seconds of audio so far."""
        return self._audio.stop / SAMPLE_RATE

    @property
    def kept_s(self) -> float:
        """Seconds of audio that are in memory."""
        return (self._audio.stop - self._audio.start) / SAMPLE_RATE

    @property
    def lag_s(self) -> float:
        """Seconds between the end of the audio and the end of what was looked at of its speech."""
        stretch = self._next_stretch()
        if stretch is None or stretch.is_covered_by(stretch.heard_until):
            return 0.0
        return (self._audio.stop - stretch.heard_until) / SAMPLE_RATE

    @property
    def is_idle(self) -> bool:
        """Whether nothing is unfinished: no turn goes on, and all texts are told."""
        return not self._unfinished and (self._turn is None or not self._turn.stretches)

    def configure(self, options: SessionOptions, model: Model) -> None:
        """Go on with other options. A stretch that goes on keeps its own model and policy."""
        if model.name != self.model.name:
            self._language = None
        self.options, self.model = options, model

    def append(self, pcm: npt.NDArray[np.int16]) -> list[Event]:
        """Take the next audio, int16 at 16 kHz."""
        self._audio.append(pcm)
        events: list[Event] = []
        for frame in self._voice.push(pcm):
            events += self._hear(frame)
        self._forget()
        return events + self._lag_events()

    def commit(self) -> list[Event]:
        """End the turn that goes on.

        Raises:
            EmptyBufferError: there is too little audio behind the last turn.
        """
        stop = self._audio.stop
        if (buffered := stop - self._begin) < MIN_COMMIT_S * SAMPLE_RATE:
            raise EmptyBufferError(buffered / SAMPLE_RATE)
        turn = self._turn or self._open_turn(self._begin)
        if turn.open_stretch is None and self._tracker.onset is not None:
            self._open_stretch(turn, self._tracker.onset)
            self._hear_onset(turn)
        return self._end_turn(turn, stop)

    def clear(self) -> list[Event]:
        """Forget what was not committed."""
        if self._turn is not None:
            self._drop_passes(self._turn.stretches)
            self._unfinished.remove(self._turn)
            self._turn = None
        self._tracker.reset()
        self._begin = self._idle_since = self._audio.stop
        return [Cleared()]

    def finish(self) -> list[Event]:
        """There is no more audio: end the turn that goes on, if there is one."""
        has_turn = self._turn is not None or self.options.turns is None
        enough = self._audio.stop - self._begin >= MIN_COMMIT_S * SAMPLE_RATE
        if enough and (has_turn or self._tracker.onset is not None):
            return self.commit()
        return []

    def next_pass(self) -> Pass | None:
        """The look to take now; None: there is none, or one is out."""
        stretch = self._next_stretch()
        if stretch is None or self._passes:
            return None
        if stretch.prompt is None:
            self._prepare(stretch)
        if stretch.stop is None and not self._is_due(stretch):
            return None
        stop = self._audio.stop if stretch.stop is None else stretch.stop
        self._n_passes += 1
        found = self._look(stretch, stop)
        self._passes[self._n_passes] = found
        return found

    def is_wanted(self, found: Pass) -> bool:
        """Whether the result of a pass is still of use."""
        return found.chunk.index in self._passes

    def accept(self, found: Pass, result: ChunkResult, took_s: float = 0.0) -> list[Event]:
        """Take the result of a pass.

        Args:
            took_s: seconds since it was sent; 0 where nobody waits for text.
        """
        if self._passes.pop(found.chunk.index, None) is None:
            return []
        stretch = found.stretch
        turn = self._turn_of(stretch)
        heard = Heard(found.stop, result)
        self._see_whether_behind(took_s)
        if result.is_short and is_doubtful(stretch, heard):
            stretch.needs_whole = True
            return []
        stretch.needs_whole = False
        if stretch.is_cut_short(heard):
            stretch.lead = Lead()
            return []
        if stretch.stop is not None:
            return self._conclude(turn, stretch, result) + self._lag_events()
        if is_wrong(stretch, heard) or self._is_unsure(stretch, result):
            stretch.latest = heard
            return self._lag_events()
        return [*turn.tell(stretch, stretch.advance(heard)), *self._lag_events()]

    def _see_whether_behind(self, took_s: float) -> None:
        """Hurry if the next look is due before this one has come back, until looks take a third of
        that time: a whole window takes twice as long as a short one."""
        interval_s = self.options.pace.interval_s
        self._is_behind = took_s > (interval_s / 3 if self._is_behind else interval_s)

    def _is_unsure(self, stretch: Stretch, result: ChunkResult) -> bool:
        """Whether the language had to be told from so little that more audio may tell another."""
        known = stretch.language or stretch.decoding.language or self._language
        return known is None and result.language_prob < _SURE_LANGUAGE

    def fail(self, found: Pass, error: Exception) -> list[Event]:
        """A pass failed, and trying again is of no use: the turn has no more text."""
        if self._passes.pop(found.chunk.index, None) is None:
            return []
        turn = self._turn_of(found.stretch)
        turn.error = error
        for stretch in turn.stretches:
            stretch.is_done = True
        return self._over()

    def lose(self, found: Pass) -> None:
        """A pass was lost; the next one looks at the same audio, and more."""
        self._passes.pop(found.chunk.index, None)

    def _hear(self, frame: Frame) -> list[Event]:
        turns = self.options.turns or TurnOptions()
        events: list[Event] = []
        began = self._tracker.push(frame, turns.threshold)
        if began:
            events += self._speech_began(turns)
        turn = self._turn
        if turn is None or not (turn.stretches or self._tracker.speaking):
            return events + self._idle(frame, turns)
        if self._tracker.speaking and self._tracker.in_voice and turn.open_stretch is None:
            self._open_stretch(turn, frame.start - round(turns.prefix_padding_s * SAMPLE_RATE))
        if (stretch := turn.open_stretch) is not None and not began:
            stretch.hear(frame, self._tracker.in_voice)
        silence_s = self._tracker.silence / SAMPLE_RATE
        if self.options.turns is not None and silence_s >= turns.silence_s:
            self._tracker.reset()
            events.append(SpeechStopped(turn.item_id, frame.stop / SAMPLE_RATE))
            return events + self._end_turn(turn, frame.stop)
        if stretch is not None and silence_s >= stretch.enough_pause_s(frame.stop):
            if self.options.turns is None and silence_s >= PAUSE_S:
                self._tracker.reset()
            events += self._close_stretch(turn, stretch, frame.stop)
        return events

    def _speech_began(self, turns: TurnOptions) -> list[Event]:
        assert self._tracker.onset is not None
        start = self._tracker.onset - round(turns.prefix_padding_s * SAMPLE_RATE)
        events: list[Event] = []
        if self._turn is None:
            at = self._begin if self.options.turns is None else max(start, self._begin)
            turn = self._open_turn(at)
            if self.options.turns is not None:
                events.append(SpeechStarted(turn.item_id, at / SAMPLE_RATE))
        assert self._turn is not None
        if self._turn.open_stretch is None:
            self._open_stretch(self._turn, start)
            self._hear_onset(self._turn)
        return events

    def _hear_onset(self, turn: Turn) -> None:
        """Give a new stretch the voice that was heard before it began."""
        assert turn.open_stretch is not None
        turn.open_stretch.voiced += self._tracker.onset_span()

    def _idle(self, frame: Frame, turns: TurnOptions) -> list[Event]:
        timeout_s = turns.idle_timeout_s
        if self.options.turns is None or timeout_s is None:
            return []
        if frame.stop - self._idle_since < timeout_s * SAMPLE_RATE:
            return []
        start = self._idle_since
        turn = self._open_turn(start)
        timed_out = TimedOut(turn.item_id, start / SAMPLE_RATE, frame.stop / SAMPLE_RATE)
        return [timed_out, *self._end_turn(turn, frame.stop)]

    def _open_turn(self, start: int) -> Turn:
        self._turn = Turn(self._new_id(), start)
        self._unfinished.append(self._turn)
        return self._turn

    def _open_stretch(self, turn: Turn, start: int) -> None:
        last = turn.stretches[-1] if turn.stretches else None
        earliest = turn.start if last is None or last.stop is None else last.stop
        start = max(start, earliest, self._audio.start)
        policy = new_policy(self.options)
        turn.stretches.append(Stretch(start, policy, self.model, self.options.decoding))

    def _end_turn(self, turn: Turn, stop: int) -> list[Event]:
        """Commit a turn."""
        events: list[Event] = [Committed(turn.item_id, self._before)]
        self._before, self._turn, turn.stop = turn.item_id, None, stop
        self._begin = self._idle_since = stop
        self._tracker.reset()
        if turn.open_stretch is not None:
            events += self._close_stretch(turn, turn.open_stretch, stop)
        return events + self._over()

    def _close_stretch(self, turn: Turn, stretch: Stretch, stop: int) -> list[Event]:
        """A stretch ends. If a look has heard all of its speech, that was the last one."""
        stretch.stop = stop
        latest = stretch.latest
        if latest is not None and not latest.result.is_short and stretch.is_covered_by(latest.stop):
            return self._conclude(turn, stretch, latest.result)
        out = [each for each in self._passes.values() if each.stretch is stretch]
        if not any(each.is_whole and stretch.is_covered_by(each.stop) for each in out):
            self._drop_passes([stretch])
        return []

    def _conclude(self, turn: Turn, stretch: Stretch, result: ChunkResult) -> list[Event]:
        """Take a result that heard all of a stretch, unless it has to be looked at once more."""
        stretch.attempts.append(result)
        n_more = len(TEMPERATURES.temperatures) - len(stretch.attempts)
        assert stretch.stop is not None
        heard = Heard(stretch.stop, result)
        if is_wrong(stretch, heard) and not is_silence(result, TEMPERATURES) and n_more > 0:
            return []
        kept = best_result(stretch.attempts, TEMPERATURES)
        final = None if is_nothing(stretch, Heard(stretch.stop, kept)) else kept
        new = stretch.finish(final)
        if final is not None:
            pcm = self._audio.between(stretch.start, stretch.stop)
            self._lead = (stretch.model.name, stretch.as_lead(pcm, self.options.lead_s))
        self._forget()
        if final is not None and final.language_prob >= 0.5:
            self._language = self._language or final.language
        return [*turn.tell(stretch, new), *self._over()]

    def _over(self) -> list[Event]:
        """What to say of turns that are over, in order."""
        events: list[Event] = []
        while self._unfinished and self._unfinished[0].is_over:
            turn = self._unfinished.pop(0)
            if turn is self._turn:  # it failed while it went on
                self._turn, self._begin = None, self._audio.stop
                self._tracker.reset()
            if turn.error is not None:
                events.append(Failed(turn.item_id, turn.error))
            else:
                events.append(turn.completed())
                self._said = f"{self._said} {turn.text}"[-_MAX_CONTEXT_CHARACTERS:]
        return events

    def _next_stretch(self) -> Stretch | None:
        """The first stretch that is not done."""
        stretches = (stretch for turn in self._unfinished for stretch in turn.stretches)
        return next((stretch for stretch in stretches if not stretch.is_done), None)

    def _is_due(self, stretch: Stretch) -> bool:
        """Whether to look again at a stretch that goes on."""
        now, until = self._audio.stop, stretch.heard_until
        if stretch.is_covered_by(until):
            return False
        if stretch.is_covered_by(now) and self._tracker.silence >= self._settled:
            return True
        interval_s = self.options.pace.interval_s
        if stretch.latest is None:
            interval_s = max(interval_s, _FIRST_LOOK_S)
        return now - until >= interval_s * SAMPLE_RATE and stretch.voice_stop > until

    @property
    def _settled(self) -> float:
        turns = self.options.turns
        silence_s = PAUSE_S if turns is None else turns.silence_s
        return min(_SETTLED_S, silence_s / 2) * SAMPLE_RATE

    def _look(self, stretch: Stretch, stop: int) -> Pass:
        audio = self._audio.between(stretch.start, stop)
        language = stretch.language or stretch.decoding.language or self._language
        # What language is spoken is told from whole windows.
        is_hurried = self._is_behind and language is not None and not stretch.needs_whole
        return take_look(
            self.session_id, self._n_passes, stretch, audio, stop, language, is_hurried
        )

    def _prepare(self, stretch: Stretch) -> None:
        """Decide what a stretch is told, and hears, of what was before it: the client's prompt, and
        the end of what was said."""
        n, before = self.options.context_characters, self._said
        turn = self._turn_of(stretch)
        if turn.text:
            before = f"{before} {turn.text}"
        lead = self._lead
        if lead is not None and lead[0] == stretch.model.name:
            stretch.lead = lead[1]
        told = [stretch.decoding.prompt or "", before[-n:] if n else ""]
        stretch.prompt = " ".join(part.strip() for part in told if part.strip())

    def _turn_of(self, stretch: Stretch) -> Turn:
        return next(turn for turn in self._unfinished if stretch in turn.stretches)

    def _drop_passes(self, stretches: list[Stretch]) -> None:
        for number, found in list(self._passes.items()):
            if found.stretch in stretches:
                del self._passes[number]

    def _forget(self) -> None:
        """Drop audio that nothing can ask for any more."""
        stretch = self._next_stretch()
        needed = self._audio.stop if stretch is None else stretch.start
        onset = self._tracker.onset
        kept = self._audio.stop if onset is None else onset
        padding = (self.options.turns or TurnOptions()).prefix_padding_s
        self._audio.drop_before(min(needed, kept) - round((padding + 1.0) * SAMPLE_RATE))

    def _lag_events(self) -> list[Event]:
        lag_s = self.lag_s
        if self._lags == (lag_s > (_CAUGHT_UP_S if self._lags else _LAGS_S)):
            return []
        self._lags = not self._lags
        return [Lagging(round(lag_s, 3) if self._lags else 0.0)]
