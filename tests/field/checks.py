"""Checks of answers. A check returns an answer's faults in words, none if it is right."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

from tests.field.answers import Answer, Cue
from tests.field.audio import Said

START_TOLERANCE_S = 0.45
END_TOLERANCE_S = 1.0
"""Whisper often ends a segment where the next one begins, so a segment may include the pause after
it, but no more."""
DURATION_TOLERANCE_S = 0.15
_OVERLAP_S = 0.7
"""A cue that covers more of a clip's voice than this must have a word of it."""
_FOREIGN = re.compile(
    r"moov atom|Invalid data found|Error (opening|while|submitting|splitting)|pipe:|/proc/|/dev/|"
    r"/tmp/|av_|\[[\w,]+ @ |Conversion failed|Output file|Stream map|Stream #|does not contain any|"
    r"misdetection|Failed to|Header missing|ffmpeg|libav|Traceback|0x[0-9a-f]{6}|demuxe|"
    r"monoton|\.py\b",
    re.IGNORECASE,
)
"""Words of ffmpeg and Python, and paths on the server, none of which our messages may contain."""
_normalize = EnglishTextNormalizer()


class Check(Protocol):
    """Judges answers."""

    @property
    def right(self) -> str:
        """The right answer in words, for the table."""

    def faults(self, answer: Answer) -> list[str]: ...


def words_of(text: str) -> list[str]:
    """The words of a text after Whisper's own normalizer."""
    return _normalize(text).split()


@dataclass(frozen=True)
class Heard:
    """The answer has all words and no others, in cues at the times when they are spoken.

    Args:
        said: the words with their true times.
        duration_s: of the file; None: the duration is not checked.
        times: whether cues are checked.
    """

    said: Sequence[Said]
    duration_s: float | None = None
    times: bool = True
    duration_tolerance_s: float = DURATION_TOLERANCE_S

    @property
    def right(self) -> str:
        sure = [s for s in self.said if s.is_sure]
        n = sum(len(words_of(s.words)) for s in sure)
        starts = ", ".join(f"{s.start_s:.2f}" for s in sure)
        parts = [f"{n} words"]
        parts += [f"from {starts} s"] if self.times else []
        parts += [f"{self.duration_s:.2f} s long"] if self.duration_s is not None else []
        return "; ".join(parts)

    def faults(self, answer: Answer) -> list[str]:
        if answer.status != 200:
            return [f"no transcript: {answer.short()}"]
        cues = answer.cues if self.times else [Cue(0, 0, answer.text)]
        faults = self._of_words_and_times(cues)
        if self.times and words_of(answer.text) != words_of(" ".join(c.text for c in cues)):
            faults.append("text and cues have other words")
        return faults + self._of_duration(answer)

    def _of_words_and_times(self, cues: Sequence[Cue]) -> list[str]:
        spoken = [(word, i) for i, said in enumerate(self.said) for word in words_of(said.words)]
        heard = [(word, k) for k, cue in enumerate(cues) for word in words_of(cue.text)]
        pairs = _aligned([w for w, _ in spoken], [w for w, _ in heard])
        faults = self._of_words(spoken, heard, pairs)
        if not self.times:
            return faults
        for i, said in enumerate(self.said):
            own = [(a, b) for a, b in pairs if spoken[a][1] == i]
            if said.is_sure and own:
                following = min(
                    (s.start_s for s in self.said if s.start_s > said.start_s), default=0.0
                )
                faults += _of_times(said, following, own, heard, cues)
        owners = {(spoken[a][1], heard[b][1]) for a, b in pairs}
        for k, cue in enumerate(cues):
            for i, said in enumerate(self.said):
                covered = min(cue.end_s, said.end_s) - max(cue.start_s, said.start_s)
                if said.is_sure and covered > _OVERLAP_S and (i, k) not in owners:
                    faults.append(f"a cue over {cue.start_s:g}-{cue.end_s:g} s lacks its words")
        return faults

    def _of_words(
        self,
        spoken: list[tuple[str, int]],
        heard: list[tuple[str, int]],
        pairs: list[tuple[int, int]],
    ) -> list[str]:
        faults = []
        room = 0
        misheard = _misheard([w for w, _ in spoken], [w for w, _ in heard])
        for i, said in enumerate(self.said):
            n = sum(owner == i for _, owner in spoken)
            n_right = sum(spoken[a][1] == i for a, _ in pairs)
            n_misheard = sum(spoken[a][1] == i for a in misheard)
            may_miss = max(1, n // 10) if said.is_sure else n
            may_mishear = max(2, n // 5) if said.is_sure else n
            room += may_miss
            if (n_missing := n - n_right - n_misheard) > may_miss:
                faults.append(f"{n_missing} of {n} words at {said.start_s:.1f} s are missing")
            if n_misheard > may_mishear:
                faults.append(f"{n_misheard} of {n} words at {said.start_s:.1f} s are others")
        too_many = len(heard) - len(pairs) - len(misheard)
        if too_many > room:
            faults.append(f"{too_many} words that nobody said")
        return faults

    def _of_duration(self, answer: Answer) -> list[str]:
        if self.duration_s is None:
            return []
        told = {"duration": answer.body.get("duration")}
        if answer.is_over_http:
            told["usage.seconds"] = answer.body.get("usage", {}).get("seconds")
        return [
            f"{name} is {value}, not {self.duration_s:.3f}"
            for name, value in told.items()
            if value is None or abs(value - self.duration_s) > self.duration_tolerance_s
        ]


def _aligned(spoken: list[str], heard: list[str]) -> list[tuple[int, int]]:
    """Pairs of indices of equal words, by the alignment with the fewest edits."""
    if not spoken or not heard:
        return []
    found = jiwer.process_words(" ".join(spoken), " ".join(heard)).alignments[0]
    return [
        (part.ref_start_idx + i, part.hyp_start_idx + i)
        for part in found
        if part.type == "equal"
        for i in range(part.ref_end_idx - part.ref_start_idx)
    ]


def _misheard(spoken: list[str], heard: list[str]) -> list[int]:
    """Indices of spoken words that have another word in their place: the model's fault, as of
    "an ill-disposed" that becomes "an old-sposed"; nothing is lost."""
    if not spoken or not heard:
        return []
    found = jiwer.process_words(" ".join(spoken), " ".join(heard)).alignments[0]
    return [
        index
        for part in found
        if part.type == "substitute"
        for index in range(part.ref_start_idx, part.ref_end_idx)
    ]


def _of_times(
    said: Said,
    following_s: float,
    own: list[tuple[int, int]],
    heard: list[tuple[str, int]],
    cues: Sequence[Cue],
) -> list[str]:
    """Faults in the times of a clip's words. The next clip's voice begins at `following_s`."""
    first, last = own[0][1], own[-1][1]
    opening, closing = cues[heard[first][1]], cues[heard[last][1]]
    opens = first == 0 or heard[first - 1][1] != heard[first][1]
    closes = last == len(heard) - 1 or heard[last + 1][1] != heard[last][1]
    early_s = said.start_s - opening.start_s
    latest_s = max(said.end_s + END_TOLERANCE_S, following_s + START_TOLERANCE_S)
    faults = []
    if opens and early_s > START_TOLERANCE_S or -early_s > START_TOLERANCE_S:
        faults.append(f"the cue for {said.start_s:.2f} s begins at {opening.start_s:.2f} s")
    if closes and closing.end_s > latest_s or closing.end_s < said.end_s - END_TOLERANCE_S:
        faults.append(f"the cue for {said.end_s:.2f} s ends at {closing.end_s:.2f} s")
    if opening.end_s < said.start_s or closing.start_s > said.end_s:
        faults.append(f"words of {said.start_s:.2f} s are in a cue elsewhere")
    return faults


@dataclass(frozen=True)
class Warns:
    """The answer has a warning about the right place.

    Args:
        start_s, end_s: where the damage is; a warning with times must touch it.
    """

    start_s: float
    end_s: float
    tolerance_s: float = 2.0

    @property
    def right(self) -> str:
        return f"a warning about {self.start_s:.1f}-{self.end_s:.1f} s"

    def faults(self, answer: Answer) -> list[str]:
        if answer.exit_code not in (None, 3):
            return [f"exit code {answer.exit_code}, not 3"]
        if not answer.warnings:
            return ["no warning"]
        if all(self._is_elsewhere(w.start_s, w.end_s) for w in answer.warnings):
            places = ", ".join(f"{w.start_s}-{w.end_s}" for w in answer.warnings)
            return [f"warned of {places} s"]
        return _foreign(" ".join(w.message for w in answer.warnings))

    def _is_elsewhere(self, start_s: float | None, end_s: float | None) -> bool:
        if start_s is None:
            return False
        end_s = start_s if end_s is None else end_s
        return end_s < self.start_s - self.tolerance_s or start_s > self.end_s + self.tolerance_s


@dataclass(frozen=True)
class Silent:
    """The answer has no words, because nobody speaks."""

    right: str = "no text"

    def faults(self, answer: Answer) -> list[str]:
        if answer.status != 200:
            return [f"no transcript: {answer.short()}"]
        return [f"words that nobody said: {answer.text!r}"] if answer.text.strip() else []


@dataclass(frozen=True)
class Refused:
    """The answer is one clear error in our own words.

    Args:
        statuses: HTTP statuses, any of which is right; on the command line, any failure is.
        says: a regular expression that the message must match.
    """

    statuses: Sequence[int] = (400, 422)
    code: str | None = None
    param: str | None = None
    says: str = ""

    @property
    def right(self) -> str:
        named = f" naming /{self.says}/" if self.says else ""
        what = " ".join(filter(None, (self.code, self.param and f"of {self.param}")))
        return f"{'/'.join(map(str, self.statuses))} {what}{named}, in our words".replace("  ", " ")

    def faults(self, answer: Answer) -> list[str]:
        over_http = answer.is_over_http
        if answer.status == 200 or over_http and answer.status not in self.statuses:
            return [f"answered {answer.short()}"]
        faults = _foreign(answer.message)
        if not answer.message.strip():
            faults.append("no message")
        if not re.search(self.says, answer.message, re.IGNORECASE):
            faults.append(f"/{self.says}/ is not named: {answer.message[:120]}")
        if over_http and self.code and answer.error.get("code") != self.code:
            faults.append(f"code {answer.error.get('code')}")
        if over_http and self.param and answer.error.get("param") != self.param:
            faults.append(f"param {answer.error.get('param')}")
        return faults


@dataclass(frozen=True)
class That:
    """Any other condition that the answer must meet."""

    right: str
    holds: Callable[[Answer], bool] = field(repr=False)

    def faults(self, answer: Answer) -> list[str]:
        return [] if self.holds(answer) else [f"not so: {self.right}"]


@dataclass(frozen=True)
class Both:
    """The answer passes all of several checks."""

    checks: tuple[Check, ...]

    @property
    def right(self) -> str:
        return "; ".join(check.right for check in self.checks)

    def faults(self, answer: Answer) -> list[str]:
        return [fault for check in self.checks for fault in check.faults(answer)]


def every(*checks: Check) -> Check:
    return checks[0] if len(checks) == 1 else Both(checks)


@dataclass(frozen=True)
class Either:
    """The answer passes any of several checks. If it passes none, the first one's faults count."""

    checks: tuple[Check, ...]

    @property
    def right(self) -> str:
        return " or: ".join(check.right for check in self.checks)

    def faults(self, answer: Answer) -> list[str]:
        found = [check.faults(answer) for check in self.checks]
        return [] if not all(found) else found[0]


def _foreign(message: str) -> list[str]:
    found = _FOREIGN.search(message)
    return [f"ffmpeg's words: {message[:160]}"] if found else []
