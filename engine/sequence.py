"""One chunk's decoding state on the host: from admission to result."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.decoding.hypotheses import BeamSearch, BestOf, Hypotheses, Row
from engine.decoding.sampler import Noise
from engine.decoding.segments import compression_ratio, split_segments
from engine.decoding.tokenizer import Tokenizer
from engine.request import DecodingOptions, FinishReason, Request, Result, Segment
from engine.word_times import WordTimes


@dataclass
class Sequence:
    """A request in a slot, or in several if it has several texts.

    `slots` are its slots, of which the first has its window, `n_frames` long. `adapter` is the
    number of its adapter, 0 for none. `n_sampled` counts the tokens that the device was told to
    sample for each; `tokens` are those that have come back, maybe some steps later, or those of the
    best text once that is known. `sum_logprob` is their sum, end token included. `word_times` is
    there while the finished text's words get their times. `began_share_s` is the engine time that a
    sequence would have used, had it been here from the start until this one was admitted.
    """

    request: Request
    slots: tuple[int, ...]
    arrived_s: float
    admitted_s: float
    n_frames: int
    began_share_s: float = 0.0
    adapter: int = 0
    language: str = "en"
    language_prob: float = 1.0
    language_probs: tuple[tuple[str, float], ...] = ()
    no_speech_prob: float = 0.0
    prompt: list[int] = field(default_factory=list)
    max_new_tokens: int = 0
    n_sampled: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sum_logprob: float = 0.0
    finish_reason: FinishReason | None = None
    first_token_s: float = 0.0
    aborted: bool = False
    texts: Hypotheses | None = None
    segments: tuple[Segment, ...] | None = None
    word_times: WordTimes | None = None
    _n_steps: int = 0

    @property
    def slot(self) -> int:
        """The slot with its window."""
        return self.slots[0]

    @property
    def is_search(self) -> bool:
        """Whether it is a beam search."""
        return len(self.slots) > 1 and self.request.options.temperature == 0.0

    @property
    def text_tokens(self) -> list[int]:
        """The tokens of the text: the prefix that was asked for, and those that have come back."""
        return [*self.request.options.prefix, *self.tokens]

    @property
    def text_logprobs(self) -> list[float]:
        """The log-probability of each of `text_tokens`; 0 for the prefix."""
        return [0.0] * len(self.request.options.prefix) + self.logprobs

    @property
    def position(self) -> int:
        """The position in the slot to which the last sampled token will be written."""
        return len(self.prompt) + self.n_sampled - 1

    def append(self, token: int, logprob: float, eot: int) -> None:
        """Record a sampled token; sets `finish_reason` if it is the last one. Tokens after the last
        one, sampled before it came back, are dropped."""
        if self.finish_reason is not None:
            return
        self.sum_logprob += logprob
        if token == eot:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if len(self.tokens) >= self.max_new_tokens:
            self.finish_reason = "length"

    def append_rows(self, rows: Seq[Row], tokenizer: Tokenizer) -> None:
        """Record what a step gave for each slot; sets `finish_reason` if it is the last step."""
        if len(rows) == 1:
            self.append(rows[0].token, rows[0].logprob, tokenizer.eot)
            return
        if self.finish_reason is not None:
            return
        if self.texts is None:
            self.texts = _start(self.request.options, tokenizer)
        self._n_steps += 1
        if self.texts.append(rows) or self._n_steps >= self.max_new_tokens:
            best = self.texts.best()
            self.tokens, self.logprobs = list(best.tokens), list(best.logprobs)
            self.sum_logprob = best.sum_logprob
            self.finish_reason = "stop" if best.has_ended else "length"

    def noise(self) -> list[Noise | None]:
        """The noise for the next token of each slot; None if the likeliest token is taken."""
        options = self.request.options
        if options.temperature == 0.0:
            return [None] * len(self.slots)
        return [
            Noise(options.temperature, options.seed, self.n_sampled, row)
            for row in range(len(self.slots))
        ]

    def wants_words(self, tokenizer: Tokenizer, room: int) -> bool:
        """Whether the finished text has words that have no times yet; prepares `word_times`.

        Args:
            room: positions of a slot.
        """
        if not self.request.options.words or self.segments is not None or not self.text_tokens:
            return False
        segments = split_segments(self.text_tokens, tokenizer, self.text_logprobs)
        if not segments:
            return False
        self.word_times = WordTimes.prepare(self.request, segments, self.language, tokenizer, room)
        return True

    def take_attention(self, attention: npt.NDArray[np.float32]) -> None:
        """Take what `Align` gave for `word_times`."""
        assert self.word_times is not None
        self.segments, self.word_times = self.word_times.segments(attention), None

    def result(self, tokenizer: Tokenizer, finished_s: float, share_s: float) -> Result:
        """
        Args:
            share_s: as `began_share_s`, now.
        """
        assert self.finish_reason is not None, "the sequence is not finished"
        tokens, logprobs = self.text_tokens, self.text_logprobs
        text = tokenizer.decode(tokens).strip()
        return Result(
            request_id=self.request.request_id,
            tokens=tuple(tokens),
            segments=self.segments or split_segments(tokens, tokenizer, logprobs),
            text=text,
            language=self.language,
            language_prob=self.language_prob,
            temperature=self.request.options.temperature,
            avg_logprob=self.sum_logprob / (len(self.tokens) + 1),
            no_speech_prob=self.no_speech_prob,
            compression_ratio=compression_ratio(text),
            finish_reason=self.finish_reason,
            timings_s={
                "waiting": self.admitted_s - self.arrived_s,
                "prefill": self.first_token_s - self.admitted_s,
                "decode": finished_s - self.first_token_s,
            },
            language_probs=self.language_probs,
            n_frames=self.n_frames,
            device_s=(share_s - self.began_share_s) * len(self.slots),
        )


def _start(options: DecodingOptions, tokenizer: Tokenizer) -> Hypotheses:
    if options.temperature > 0.0:
        return BestOf(options.best_of, options.length_penalty, tokenizer.eot)
    graph = tokenizer.keyword_graph(options)
    gain = None if graph is None else graph.score
    return BeamSearch(options.beam_size, options.patience, options.length_penalty, gain)


def by_window(sequences: Seq[Sequence]) -> list[tuple[int, int, list[Sequence]]]:
    """Sequences whose windows are equally long and have the same adapter, so that they can be
    encoded as one batch; that length in frames, and the adapter's number."""
    equal: dict[tuple[int, int], list[Sequence]] = {}
    for sequence in sequences:
        equal.setdefault((sequence.n_frames, sequence.adapter), []).append(sequence)
    return [(n_frames, adapter, group) for (n_frames, adapter), group in equal.items()]
