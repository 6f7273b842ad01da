"""The words of a finished text and their times: what to ask of a rank, and what to make of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.config import TIME_PRECISION_S
from engine.decoding.alignment import Frames, segment_times, speech_frames, word_frames
from engine.decoding.tokenizer import Tokenizer
from engine.decoding.words import spelled, split_words
from engine.request import Request, Segment, Word
from engine.steps import Align


@dataclass(frozen=True, slots=True)
class WordTimes:
    """A text whose words are to get times.

    Attributes:
        text: start sequence and text, without timestamps and without the last token, for no
            other is chosen by it. The text is spelled: a character is a token.
        n_before: tokens of the start sequence.
        frames: frames to look at.
    """

    text: list[int]
    n_before: int
    frames: Frames
    _segments: tuple[Segment, ...]
    _words: list[list[list[int]]]
    _lengths: list[int]
    _tokenizer: Tokenizer

    @classmethod
    def prepare(
        cls,
        request: Request,
        segments: tuple[Segment, ...],
        language: str,
        tokenizer: Tokenizer,
        room: int,
    ) -> "WordTimes":
        """
        Args:
            segments: of the finished text; at least one.
            room: the most tokens of `text`.
        """
        begin = tokenizer.timestamp_begin
        said = [[token for token in segment.tokens if token < begin] for segment in segments]
        before = tokenizer.sot_sequence(language, replace(request.options, timestamps=False))
        words = [split_words(tokens, language, tokenizer) for tokens in said]
        pieces = _pieces([word for some in words for word in some], tokenizer, room - len(before))
        text = [token for piece in pieces for token in piece]
        times = segment_times(segments, begin)
        return cls(
            text=[*before, *text][:-1],
            n_before=len(before),
            frames=speech_frames(request.pcm, request.speech, times, len(text)),
            _segments=segments,
            _words=words,
            _lengths=[len(piece) for piece in pieces],
            _tokenizer=tokenizer,
        )

    def segments(self, attention: npt.NDArray[np.float32]) -> tuple[Segment, ...]:
        """The segments with their words.

        Args:
            attention: of the text's tokens to the frames, as `Aligner.maps` gives it.
        """
        spans = iter(word_frames(attention, self.frames, self._lengths))
        return tuple(
            replace(segment, words=tuple(self._timed(segment, words, spans)))
            for segment, words in zip(self._segments, self._words, strict=True)
        )

    def _timed(
        self, segment: Segment, words: Sequence[list[int]], spans: Iterator[tuple[int, int]]
    ) -> Iterator[Word]:
        begin = self._tokenizer.timestamp_begin
        pairs = zip(segment.tokens, segment.logprobs, strict=True)
        probabilities = iter([math.exp(logprob) for token, logprob in pairs if token < begin])
        for tokens in words:
            start, stop = next(spans)
            mean = sum(next(probabilities) for _ in tokens) / len(tokens)
            yield Word(
                start_s=round(start * TIME_PRECISION_S, 2),
                end_s=round(stop * TIME_PRECISION_S, 2),
                text=self._tokenizer.decode(tokens),
                probability=round(mean, 4),
            )


def _pieces(words: Sequence[list[int]], tokenizer: Tokenizer, room: int) -> list[list[int]]:
    """The tokens of each word: its characters', or if those have no room, its pairs', or the
    model's own. One token more than there is room for may be, for the last is not looked at."""
    for size in (1, 2):
        pieces = [spelled(word, tokenizer, size) for word in words]
        if sum(map(len, pieces)) - 1 <= room:
            return pieces
    return list(words)


def align_step(texts: Sequence[WordTimes], slots: Sequence[int], adapters: Sequence[int]) -> Align:
    """The step that gives the attention of texts, whose windows are in these slots."""
    return Align(
        tuple(each.text for each in texts),
        tuple(each.n_before for each in texts),
        tuple(slots),
        tuple(each.frames for each in texts),
        tuple(adapters),
    )
