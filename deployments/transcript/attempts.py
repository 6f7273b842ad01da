"""One part of a file: decoded attempt after attempt, tier after tier, until its text is kept.

`Attempts` judges each result by the file's options and says what comes next. It knows nothing of
the file's order, of what chunks wait for, or of how a chunk travels: `transcription.py` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from deployments.messages import ChunkResult, Escalation, TranscriptSegment
from deployments.transcript.cascade import LANGUAGE, PROBABILITY
from deployments.transcript.context import with_text
from deployments.transcript.coverage import MIN_SPLIT_S, Review, review
from deployments.transcript.echo import outruns_speech, without_echo
from deployments.transcript.fallback import (
    FallbackOptions,
    best_result,
    is_doubtful,
    is_silence,
    looks_wrong,
)
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.piece import Piece
from deployments.transcript.scripts import letters
from deployments.transcript.stitching import place_segment, repeats_itself
from deployments.transcript.trials import Trial, Trials
from engine import SAMPLE_RATE

_MIN_GAIN = 1.1
"""A second look is kept if it finds at least this many times the letters of the first."""


@dataclass(eq=False)
class Part:
    """A part of the file: the piece that is being decoded, what is left, and the text so far.

    Attributes:
        index: its place in the file's order.
        span_s: its start and end in the file, in seconds.
        piece: the audio that is being decoded.
        rest: pieces to decode after that, and text between them.
        segments: the final text so far.
        first: the text of the first look while there is a second; None: there is no second look.
        again: start and end of the stretches of the file that have a second look, in seconds.
        is_bare: whether it is decoded without the prompt, which may have silenced the model.
        context: tokens of the text before the part.
        tried: results for `piece` from its current tier.
        attempt: how `piece` is decoded now; None: by the first attempt.
        n_blamed: how many of `tried`, from the first, have faults blamed on the caller's prompt.
        above: a tier must have more quality than this; None: any tier will do.
        doubted: the result that sent `piece` to a better tier.
        escalation: the record of that.
        lower: the most probable result of lower tiers in which nothing else looked wrong.
        trials: trials of hopeless chunks that this part decides.
        stays: whether a trial that did not help keeps it from a better tier.
        n_done: number of pieces before this one.
        language: of `piece`, where each piece has its own; None while it is unknown.
    """

    index: int
    piece: Piece
    span_s: tuple[float, float] = field(init=False)
    rest: list[Piece | TranscriptSegment] = field(default_factory=list)
    segments: list[TranscriptSegment] = field(default_factory=list)
    first: list[TranscriptSegment] | None = None
    again: list[tuple[float, float]] = field(default_factory=list)
    is_bare: bool = False
    context: tuple[int, ...] = ()
    tried: list[ChunkResult] = field(default_factory=list)
    attempt: "Attempt | None" = None
    n_blamed: int = 0
    above: int | None = None
    doubted: ChunkResult | None = None
    escalation: Escalation | None = None
    lower: ChunkResult | None = None
    trials: list[Trial] = field(default_factory=list)
    stays: bool = False
    n_done: int = 0
    language: str | None = None

    def __post_init__(self) -> None:
        self.span_s = self.piece.span_s

    def best(self, options: FallbackOptions) -> ChunkResult:
        """The result to keep of those tried."""
        return best_result(self.tried[self.n_blamed :] or self.tried, options)

    @property
    def duration_s(self) -> float:
        """Seconds of audio that are not decoded yet."""
        rest = [item.duration_s for item in self.rest if isinstance(item, Piece)]
        return self.piece.duration_s + sum(rest)


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a piece is decoded: the temperature, beams where that is 0, tokens of the text before it,
    whether with the caller's keywords and prompt, and whether the encoder must see the whole
    window."""

    temperature: float
    beam_size: int
    context: tuple[int, ...]
    prompted: bool
    whole_window: bool


class Next(Enum):
    """What comes after a result."""

    DECODE = auto()
    """Decode another chunk of the part."""
    WAIT = auto()
    """Wait until a trial decides and `Attempts.released` returns the part."""
    EMIT = auto()
    """The part is final."""


class Attempts:
    """The attempts at all parts of one file.

    Attributes:
        language: of the file; None while it is unknown.
        escalations: chunks that went to a better tier, in the order in which they went.
        n_whole_again: chunks whose text from a short window was not taken.
    """

    def __init__(self, options: TranscriptionOptions) -> None:
        self.options = options
        self.language = options.decoding.language
        self.escalations: list[Escalation] = []
        self.n_whole_again = 0
        self._trials: Trials[Part] = Trials()

    def language_of(self, part: Part) -> str | None:
        """The language in which the part's piece is decoded; None: it is to be detected."""
        return part.language if self.options.multilingual else self.language

    def next(self, part: Part) -> Attempt:
        """How to decode the part's piece now."""
        return part.attempt or self._first(part)

    def judge(self, part: Part, result: ChunkResult, is_only: bool) -> Next:
        """Take the result of a part's chunk.

        Args:
            is_only: whether the file has no other part. Then a better tier may find another
                language than this one.
        """
        if result.is_short and self._is_cut_short(part, result):
            # As if this one had never been: what comes next is what it is without short windows.
            self.n_whole_again += 1
            part.attempt = replace(self.next(part), whole_window=True)
            return Next.DECODE
        part.tried.append(result)
        self._know_language(part, result)
        reason = self._doubt(part, result)
        if reason is None:
            return self._go_on(part)
        ladder = self.options.ladder
        if reason != LANGUAGE and ladder is not None and ladder.options.is_hopeless(result):
            trial = self._trials.join(result.model, part)
            if trial is None:
                return Next.WAIT
            part.trials.append(trial)
        if reason == LANGUAGE and (is_only or self.options.multilingual):
            self.language, part.language = self.options.decoding.language, None
        return self._escalate(part, reason)

    def released(self) -> list[tuple[Part, Next]]:
        """Parts whose trial has ended, and what comes next for each."""
        return [(part, self._follow(part, helped)) for part, helped in self._trials.released()]

    def give_up(self, part: Part) -> Next | None:
        """Make do with the text that a part has, because the better tier that it went to is
        unavailable. Returns None if the part has no text."""
        if part.above is None:  # nothing was tried yet, or the caller named the tier
            return None
        if part.tried:
            return self._settle(part, part.best(self.options.fallback))
        assert part.doubted is not None, "a chunk goes up because of a result"
        self.escalations[:] = [each for each in self.escalations if each is not part.escalation]
        self._know_language(part, part.doubted)
        return self._settle(part, part.lower or part.doubted)

    def _is_cut_short(self, part: Part, result: ChunkResult) -> bool:
        """Whether to decode the whole window instead of taking the text of a short one: it has
        signs of that, or would be decoded again for another reason."""
        if self.options.short_window.doubt(part.piece, result) is not None:
            return True
        ladder, language = self.options.ladder, self.language_of(part)
        if ladder is not None and ladder.options.doubt(result, language) is not None:
            return True
        seen = self._review(part.piece, result, self.options.tail_s, self._may_replace(part))
        return looks_wrong(result, self.options.fallback) or bool(seen.pieces)

    def _doubt(self, part: Part, result: ChunkResult) -> str | None:
        """Why a better tier should try, and not this one at a higher temperature; None: there is no
        reason. What a small model does not hear, it does not hear at any temperature."""
        ladder = self.options.ladder
        if ladder is None or part.stays:
            return None
        if not ladder.options.is_hopeless(result):
            self._end_trials(part, helped=True)
        above = ladder.above(result.model, self.language_of(part), self.options.decoding.task)
        if above is None:  # this is a best tier: further attempts must not go to a lower one
            part.above = ladder.below_best(self.language_of(part), self.options.decoding.task)
            return None
        return ladder.options.doubt(result, self.language_of(part))

    def _escalate(self, part: Part, reason: str) -> Next:
        """Send the part's piece to a better tier."""
        ladder, result = self.options.ladder, part.tried[-1]
        assert ladder is not None, "without one nothing is doubted"
        part.escalation = Escalation(result.model, reason)
        self.escalations.append(part.escalation)
        if reason == PROBABILITY and not ladder.options.prefers(part.lower, result):
            part.lower = result
        part.doubted = result
        part.above = ladder.above(result.model, self.language_of(part), self.options.decoding.task)
        part.tried, part.attempt, part.n_blamed = [], None, 0
        return Next.DECODE

    def _know_language(self, part: Part, result: ChunkResult) -> None:
        """Keep the language of a result for further attempts, unless it is known."""
        if self.options.multilingual:
            part.language = part.language or result.language
        elif self.language is None:
            self.language = result.language

    def _end_trials(self, part: Part, helped: bool) -> None:
        for trial in part.trials:
            self._trials.end(trial, helped)
        part.trials = []

    def _follow(self, part: Part, helped: bool) -> Next:
        reason = self._doubt(part, part.tried[-1]) if helped else None
        part.stays = not helped
        return self._go_on(part) if reason is None else self._escalate(part, reason)

    def _go_on(self, part: Part) -> Next:
        """Try again on the same tier if the last result looks wrong, or keep the best result."""
        attempt, result = self.next(part), part.tried[-1]
        then = self._then(part, attempt, result)
        if then is None:
            return self._settle(part, part.best(self.options.fallback))
        if attempt.prompted and self._costs_words(part.piece, result):
            part.n_blamed = len(part.tried)
        part.attempt = then
        return Next.DECODE

    def _first(self, part: Part) -> Attempt:
        has_context = self.options.context_chunks > 1
        context = with_text(part.context, part.segments) if has_context else ()
        prompted = self._prompt(part) is not None
        # Sampled text, and speech that is decoded again, have fewer signs of a window that is too
        # short.
        is_again = part.n_done > 0 or part.first is not None
        temperature = self.options.fallback.temperatures[0]
        beam_size = self.options.decoding.beam_size
        return Attempt(temperature, beam_size, context, prompted, is_again or temperature > 0.0)

    def _then(self, part: Part, attempt: Attempt, result: ChunkResult) -> Attempt | None:
        """What to try after a result: first without the text before it, next without keywords and
        prompt, then with more beams, then at higher temperatures. None: keep the best result."""
        is_wrong = looks_wrong(result, self.options.fallback)
        if attempt.context and (is_wrong or self._is_misled(part.piece, result)):
            return replace(attempt, context=())
        if attempt.prompted and (is_wrong or self._costs_words(part.piece, result)):
            return replace(attempt, prompted=False)
        unsure = self.options.unsure
        if attempt.temperature == 0.0 and attempt.beam_size < unsure.beam_size:
            if is_wrong or unsure.applies(result):
                return replace(attempt, beam_size=unsure.beam_size)
        temperatures = self.options.fallback.temperatures
        hotter = temperatures[temperatures.index(attempt.temperature) + 1 :]
        return replace(attempt, temperature=hotter[0]) if is_wrong and hotter else None

    def _is_misled(self, piece: Piece, result: ChunkResult) -> bool:
        """Whether the text before a piece may have led the model astray: into a loop, or past a
        sentence, which shows as text that ends early. If the audio is really like that, decoding
        without that text gives the same."""
        silent = not result.segments and self._is_speech(piece)
        seen = self._review(piece, result, 2 * self.options.tail_s, may_replace=True)
        return silent or bool(seen.pieces) or repeats_itself(result)

    def _costs_words(self, piece: Piece, result: ChunkResult) -> bool:
        """Whether a prompt may have led the model astray: as in `_is_misled`, or to no words, or to
        unreliable ones, for a piece with voice in it."""
        if self._is_misled(piece, result):
            return True
        text = "".join(segment.text for segment in result.segments)
        loops = result.compression_ratio > self.options.fallback.max_compression_ratio
        has_words = any(character.isalnum() for character in text)
        return loops or not has_words or is_silence(result, self.options.fallback)

    def _settle(self, part: Part, result: ChunkResult) -> Next:
        """Keep a result, and go on with what it left undecoded."""
        ladder = self.options.ladder
        if part.lower is not None and ladder is not None:
            result = part.lower if ladder.options.prefers(part.lower, result) else result
        self._end_trials(part, helped=False)
        part.tried, part.attempt, part.n_blamed = [], None, 0
        part.n_done, part.stays = part.n_done + 1, False
        part.above = part.lower = part.doubted = part.escalation = part.language = None
        self._keep(part, result)
        return self._next_piece(part)

    def _next_piece(self, part: Part) -> Next:
        while part.rest:
            item = part.rest.pop(0)
            if isinstance(item, Piece):
                part.piece = item
                return Next.DECODE
            part.segments.append(item)
        if part.first is not None:
            part.segments = _better_look(part.first, part.segments, part.again)
        return Next.EMIT

    def _keep(self, part: Part, result: ChunkResult) -> None:
        """Put the segments to keep of a result, and the pieces to decode again, before the part's
        rest."""
        fallback, piece = self.options.fallback, part.piece
        result = replace(result, segments=without_echo(piece, result, self._prompt(part)))
        # A second look must not make up what the first did not hear, and nothing must be made up
        # where voice activity detection found hardly any speech.
        hardly_speech = outruns_speech(result.segments, piece.voiced_s(0, len(piece.pcm)))
        strict = hardly_speech or part.first is not None
        doubt = is_doubtful if strict else is_silence
        if not result.segments or doubt(result, fallback):
            self._listen_again(part)
            return
        seen = self._review(piece, result, self.options.tail_s, self._may_replace(part))
        if seen.again and part.first is None:
            part.again = [_stretch(again) for again in seen.again]
            placed = (place_segment(piece, result, segment) for segment in result.segments)
            part.first = [*part.segments, *placed]
        part.rest[:0] = self._placed_items(piece, result, seen)

    def _listen_again(self, part: Part) -> None:
        """Decode a piece that was left without text again, in halves and without the prompt, if it
        clearly is speech and has a pause."""
        piece = part.piece
        if part.first is not None or not self._is_speech(piece):
            return
        if piece.duration_s < MIN_SPLIT_S or len(piece.speech) < 2:
            return
        part.first, part.again, part.is_bare = [*part.segments], [_stretch(piece)], True
        part.rest[:0] = piece.halves()

    def _review(
        self, piece: Piece, result: ChunkResult, tail_s: float, may_replace: bool
    ) -> Review:
        # A caller's own token limit is kept: nothing is decoded again in halves.
        may_halve = self.options.decoding.max_new_tokens is None
        return review(
            piece, result, tail_s, self.options.coverage, may_replace and may_halve, may_halve
        )

    def _placed_items(
        self, piece: Piece, result: ChunkResult, seen: Review
    ) -> list[Piece | TranscriptSegment]:
        return [
            item if isinstance(item, Piece) else place_segment(piece, result, item)
            for item in seen.items
        ]

    def _prompt(self, part: Part) -> str | None:
        """The keywords and prompt of the caller; None if there are none, or the part is decoded
        without them."""
        decoding = self.options.decoding
        words = " ".join([*decoding.keywords, decoding.prompt or ""]).strip()
        return None if part.is_bare else words or None

    def _may_replace(self, part: Part) -> bool:
        """Whether another look may follow: a third one does only if the second found more than the
        first."""
        return part.first is None or _n_letters(part.segments) > _n_letters(part.first)

    def _is_speech(self, piece: Piece) -> bool:
        return piece.voiced_s(0, len(piece.pcm)) >= self.options.coverage.min_voiced_s


def _better_look(
    first: list[TranscriptSegment],
    second: list[TranscriptSegment],
    again: list[tuple[float, float]],
) -> list[TranscriptSegment]:
    """The second look at some stretches if it found enough more there, else the first. Elsewhere
    the second has all that there is."""

    def is_there(segment: TranscriptSegment) -> bool:
        middle_s = (segment.start_s + segment.end_s) / 2
        return any(start_s <= middle_s <= end_s for start_s, end_s in again)

    old = [segment for segment in first if is_there(segment)]
    new = [segment for segment in second if is_there(segment)]
    if _n_letters(new) >= _MIN_GAIN * _n_letters(old):
        return second
    kept = [*old, *(segment for segment in second if not is_there(segment))]
    return sorted(kept, key=lambda segment: segment.start_s)


def _stretch(piece: Piece) -> tuple[float, float]:
    return piece.spans[0].start / SAMPLE_RATE, piece.spans[-1].end / SAMPLE_RATE


def _n_letters(segments: Sequence[TranscriptSegment]) -> float:
    return sum(letters(segment.text) for segment in segments)
