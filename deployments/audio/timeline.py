"""Keeps samples on a file's clock: which silence belongs between frames, and where to smooth.

Containers give each frame a timestamp. Counting samples and ignoring timestamps would shift all
that follows a pause, a lost packet or a damaged stretch. Believing every timestamp would turn
rounding errors into holes, and one wild number into hours of silence. So the deviation of each
frame is judged (its timestamp minus the time that counting from the last frame gives):

- A deviation within a few milliseconds of those just before is jitter, and changes nothing.
- A jump forward that the following second of sound confirms is a gap, and filled with silence.
- A small jump back, or any slow drift, is smoothed away by stretching or squeezing the sound by
  at most 0.25 %, which nobody hears.
- A larger jump back, or a jump forward of more than an hour, is not time that passed: a counter was
  reset or wrapped around, files were joined, or a timestamp is broken. Counting goes on as before.
- A timestamp that the next frames contradict is ignored.

This is pure arithmetic on timestamps (stamps): no samples, files or processes.
"""

import statistics
from collections import deque
from dataclasses import dataclass

MAX_GAP_S = 3600.0
"""Longest pause that is believed and filled with silence."""

# A jump must leave the range of recent deviations by this much. It is less than the shortest packet
# that can be lost on its own (10 ms), and more than rounding to 1 ms or 1/90,000 s.
_MARGIN_S = 0.008
_JITTER_S = 0.03  # frames of one jump differ by less: Vorbis at 8 kHz scatters by 24 ms
_LATELY_FRAMES = 32
_LOOKAHEAD_S = 1.0
_LOOKAHEAD_FRAMES = 64  # bounds the work where frames are tiny
_MAX_OVERLAP_S = 0.5  # a jump back of up to this is smoothed, which takes 200 s
_DRIFT_S = (0.015, 0.002)  # mean deviation at which smoothing begins, and ends
_DRIFT_MEMORY_S = 2.0
_MAX_STRETCH = 0.0025


@dataclass(frozen=True, slots=True)
class Step:
    """What to output next: `silence` samples of it, then `n_in` decoded samples made `n_out`."""

    silence: int
    n_in: int
    n_out: int

    @property
    def is_plain(self) -> bool:
        return self.silence == 0 and self.n_in == self.n_out


class Timeline:
    """Takes (stamp, samples) of each frame in decoding order; gives `Step`s in the same order.

    All counts are samples at the decoder's rate.

    Args:
        sample_rate: Hz.
        lead: samples of silence before the first frame.
    """

    def __init__(self, sample_rate: int, lead: int = 0) -> None:
        self._rate = sample_rate
        self._lead = lead
        self._first = self._expected = 0  # stamps of the first frame, and of the next by counting
        self._has_begun = False
        self._waiting: deque[tuple[int | None, int]] = deque()
        self._n_waiting = 0
        self._lately: deque[int] = deque([0], maxlen=_LATELY_FRAMES)  # deviations
        self._set_bounds()
        self._drift = 0.0  # running mean of the deviations
        self._drift_limit = _DRIFT_S[0] * sample_rate
        self._smooths = False
        self._stretch_credit = 0.0
        self._finished = False
        self._n_plain = 0  # samples after the last of the steps that pass unchanged
        self._steps: deque[Step] = deque([Step(lead, 0, 0)] if lead else [])
        self.position = lead
        """Samples of all steps so far, including those not yet taken."""
        self.gaps: list[tuple[int, int]] = []
        """Start and end `position` of each gap that was filled. The reader removes them."""

    def add(self, stamp: int | None, n_samples: int) -> None:
        """Add a decoded frame. `stamp` is None if its time is unknown."""
        if not self._has_begun:
            self._has_begun = True
            self._first = self._expected = stamp or 0
        if stamp is not None and not self._waiting and not self._smooths:
            deviation = stamp - self._expected
            if self._lower < deviation < self._upper:  # most frames of most files
                self._follow(deviation, n_samples)
                if abs(self._drift) < self._drift_limit:
                    self._expected += n_samples
                    self.position += n_samples
                    self._n_plain += n_samples
                    return
                self._accept(n_samples)
                return
        self._waiting.append((stamp, n_samples))
        self._n_waiting += n_samples
        self._advance()

    def finish(self) -> None:
        """Say that no frame follows."""
        self._finished = True
        self._advance()

    def pop(self) -> Step | None:
        """The next step; None at the end, or until more frames are known."""
        if not self._steps:
            self._flush_plain()
        return self._steps.popleft() if self._steps else None

    def push_back(self, step: Step) -> None:
        """Put back the rest of the step that was popped last."""
        self._steps.appendleft(step)

    @property
    def has_steps(self) -> bool:
        return bool(self._steps) or self._n_plain > 0

    @property
    def covered(self) -> int:
        """Samples that have passed on the file's own clock, including pauses that were not
        believed."""
        return max(self._expected - self._first, self.position - self._lead)

    def _advance(self) -> None:
        while self._waiting:
            stamp, n_samples = self._waiting[0]
            deviation = 0 if stamp is None else stamp - self._expected
            if stamp is None or not self._is_jump(deviation):
                self._follow(deviation, n_samples)
            elif not self._sees_enough():
                return
            elif not all(map(self._is_jump, ahead := self._deviations_ahead())):
                # The clock comes back: this is larger jitter than seen recently, or a stray stamp.
                if abs(deviation) <= _JITTER_S * self._rate:
                    self._follow(deviation, n_samples)
            else:
                # Only frames of this jump: later ones may have jumped again.
                alike = [d for d in ahead if abs(d - deviation) <= _JITTER_S * self._rate]
                self._jump(round(statistics.median(alike)), deviation)
            self._waiting.popleft()
            self._n_waiting -= n_samples
            self._accept(n_samples)

    def _is_jump(self, deviation: int) -> bool:
        return not self._lower < deviation < self._upper

    def _set_bounds(self) -> None:
        margin = _MARGIN_S * self._rate
        self._lower, self._upper = min(self._lately) - margin, max(self._lately) + margin

    def _sees_enough(self) -> bool:
        is_far = self._n_waiting >= _LOOKAHEAD_S * self._rate
        return self._finished or is_far or len(self._waiting) >= _LOOKAHEAD_FRAMES

    def _deviations_ahead(self) -> list[int]:
        expected, deviations = self._expected, []
        for stamp, n_samples in self._waiting:
            if stamp is not None:
                deviations.append(stamp - expected)
            expected += n_samples
        return deviations

    def _follow(self, deviation: int, n_samples: int) -> None:
        """Note the deviation of an ordinary frame."""
        if deviation != self._lately[-1] or self._lately[0] != deviation:
            self._lately.append(deviation)
            self._set_bounds()
        weight = n_samples / (n_samples + _DRIFT_MEMORY_S * self._rate)
        self._drift += weight * (deviation - self._drift)

    def _jump(self, size: int, deviation: int) -> None:
        """Handle a clock that is off by `size` from here on. `deviation` is this frame's, which
        includes its jitter."""
        is_gap = 0 < size <= MAX_GAP_S * self._rate and deviation > max(self._lately)
        is_other_clock = not -_MAX_OVERLAP_S * self._rate <= size <= MAX_GAP_S * self._rate
        if is_gap:
            self.gaps.append((self.position, self.position + size))
            self._push(Step(size, 0, 0))
        if is_gap or is_other_clock:
            self._expected += size
            deviation, size = deviation - size, 0
        self._lately.clear()
        self._lately.append(deviation)
        self._set_bounds()
        self._drift = float(size)

    def _accept(self, n_samples: int) -> None:
        stretch = self._stretch(n_samples)
        self._expected += n_samples + stretch
        self._drift -= stretch
        self._push(Step(0, n_samples, n_samples + stretch))

    def _stretch(self, n_samples: int) -> int:
        """Number of samples by which to lengthen a frame (shorten it if negative), to follow the
        clock."""
        begin, end = (limit_s * self._rate for limit_s in _DRIFT_S)
        if not self._smooths and abs(self._drift) < begin:
            return 0
        self._smooths = abs(self._drift) > end
        self._stretch_credit += _MAX_STRETCH * n_samples
        n_most = min(int(self._stretch_credit), round(abs(self._drift)))
        self._stretch_credit -= int(self._stretch_credit)
        return n_most if self._drift > 0 else -n_most

    def _push(self, step: Step) -> None:
        self.position += step.silence + step.n_out
        if step.is_plain:
            self._n_plain += step.n_in
        else:
            self._flush_plain()
            self._steps.append(step)

    def _flush_plain(self) -> None:
        if self._n_plain > 0:
            self._steps.append(Step(0, self._n_plain, self._n_plain))
            self._n_plain = 0
