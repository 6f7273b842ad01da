"""What goes into the engine (`Request`) and what comes out (`Result`).

Times are seconds from the request's first sample; the file's clock is not known here.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.config import N_SAMPLES, SAMPLE_RATE, TIME_PRECISION_S
from engine.window import N_FRAMES, Window

Task = Literal["transcribe", "translate", "detect_language"]
FinishReason = Literal["stop", "length", "detected"]
URGENT = range(-100, 0)
"""Priorities of requests for whose text somebody waits while speaking. Still lower ones are those
of probes, which come at any time."""
MAX_BOOST = 10.0
"""Greatest weight of a keyword, and greatest factor of all weights."""
MAX_TEXTS = 16
"""Most texts of a chunk that are decoded side by side."""


def _is_unicode(text: str) -> bool:
    """False for the lone surrogates that stand for undecodable bytes of a command line."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How a chunk is decoded.

    Args:
        task: `transcribe`; `translate` (to English); or `detect_language`, which decodes no text.
        language: ISO code such as `"en"`; None lets the model detect it.
        languages: ISO codes that a detection chooses among; none: all that the model knows.
        timestamps: decode timestamp tokens, which give the segments their times. Without them
            a chunk is one segment.
        words: find out when each word was said (`Segment.words`).
        keywords: words to expect, the most important first. They stand before the prompt; of its
            room they get half, and what does not fit is left out, word by word from the last.
        keyword_weights: a factor of `keyword_boost` for each keyword; none: 1.
        keyword_boost: how much keywords are favoured as tokens are chosen (`keyword_graph`), all of
            them, whether the prompt has room for them or not; 0: they only stand before the prompt.
            Nothing is favoured where the model hears no speech.
        keywords_in_prompt: whether they stand before the prompt at all.
        prompt: text that the transcript is to continue (names, spelling, style); the last words of
            it are used, up to 223 tokens, as in openai/whisper.
        previous_tokens: what was decoded of the audio before this chunk, timestamps included. They
            stand behind the prompt and share its room, as where openai/whisper conditions on
            previous text.
        prefix: tokens with which the chunk's text begins, without timestamps: what was decided of
            it before. They are part of the result, with a log-probability of 0, and the text goes
            on behind them. They need `timestamps` to be off. At most half the text context.
        temperature: 0 takes the likeliest token; from 0.01 to 2, tokens are sampled.
        beam_size: texts that are followed side by side where the temperature is 0; each takes a
            slot. 1: greedy.
        patience: of a beam search: it ends when `beam_size * patience` texts have ended
            (arXiv:2204.05424).
        best_of: texts that are sampled where the temperature is above 0, of which the likeliest is
            kept; each takes a slot.
        length_penalty: how texts of several lengths are compared: by the mean log-probability of a
            token (None), or by the sum divided by ((5 + n) / 6) to this power, 0 to 1
            (arXiv:1609.08144).
        max_new_tokens: limit of sampled tokens; None: half the text context (224), as in
            openai/whisper. A text cut off by it ends with `finish_reason == "length"`.
        max_initial_timestamp_s: latest time of the first timestamp; None: no limit.
        seed: seed of the sampling; equal seeds give equal texts, whatever else is in the batch.
    """

    task: Task = "transcribe"
    language: str | None = None
    languages: tuple[str, ...] = ()
    timestamps: bool = True
    words: bool = False
    keywords: tuple[str, ...] = ()
    keyword_weights: tuple[float, ...] = ()
    keyword_boost: float = 1.0
    keywords_in_prompt: bool = True
    prompt: str | None = None
    previous_tokens: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    temperature: float = 0.0
    beam_size: int = 1
    patience: float = 1.0
    best_of: int = 1
    length_penalty: float | None = None
    max_new_tokens: int | None = None
    max_initial_timestamp_s: float | None = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in ("transcribe", "translate", "detect_language"):
            raise ValueError(f"unknown task {self.task!r}")
        if self.temperature != 0.0 and not 0.01 <= self.temperature <= 2.0:
            raise ValueError(f"temperature must be 0 or 0.01 to 2, got {self.temperature}")
        self._check_search()
        if self.prompt is not None and not _is_unicode(self.prompt):
            raise ValueError("the prompt is not valid Unicode")
        self._check_keywords()
        if self.prefix and (self.timestamps or self.task == "detect_language"):
            raise ValueError("a prefix goes with a text without timestamps")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        limit = self.max_initial_timestamp_s
        if limit is not None and not 0.0 <= limit <= 30.0:
            raise ValueError(f"max_initial_timestamp_s must be between 0 and 30, got {limit}")

    def _check_keywords(self) -> None:
        if not all(map(_is_unicode, self.keywords)):
            raise ValueError("the keywords are not valid Unicode")
        if not all(keyword.strip() for keyword in self.keywords):
            raise ValueError("a keyword is empty")
        weights = self.keyword_weights
        if weights and len(weights) != len(self.keywords):
            raise ValueError(f"{len(self.keywords)} keywords have {len(weights)} weights")
        if not all(0.0 <= weight <= MAX_BOOST for weight in (*weights, self.keyword_boost)):
            raise ValueError(f"weights and keyword_boost must be between 0 and {MAX_BOOST:g}")

    def _check_search(self) -> None:
        for name in ("beam_size", "best_of"):
            if not 1 <= (value := getattr(self, name)) <= MAX_TEXTS:
                raise ValueError(f"{name} must be between 1 and {MAX_TEXTS}, got {value}")
        if not 0.0 < self.patience <= 10.0:
            raise ValueError(f"patience must be above 0 and at most 10, got {self.patience}")
        if self.length_penalty is not None and not 0.0 <= self.length_penalty <= 1.0:
            raise ValueError(f"length_penalty must be between 0 and 1, got {self.length_penalty}")

    @property
    def n_texts(self) -> int:
        """Texts that are decoded side by side, each in a slot."""
        if self.task == "detect_language":
            return 1
        return self.beam_size if self.temperature == 0.0 else self.best_of

    @property
    def max_initial_timestamp_index(self) -> int | None:
        if self.max_initial_timestamp_s is None:
            return None
        return round(self.max_initial_timestamp_s / TIME_PRECISION_S)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One chunk to decode.

    Args:
        request_id: unique among the engine's unfinished requests.
        pcm: int16 mono at 16 kHz, shape (n_samples,), 1 to 480,000 samples.
        priority: lower is served first.
        group: chunks of one file share a group; groups share the engine fairly.
        speech: samples in which voice was found, (first, last + 1) each, among which the times of
            words are looked for; empty: all.
        window: what the encoder sees of it; None: as the engine's configuration says. Where the
            engine has no room for short windows, `SHORT` is a whole one.
        adapter: the name of the adapter that decodes it; empty: none, the model as it is.
    """

    request_id: str
    pcm: npt.NDArray[np.int16]
    options: DecodingOptions = field(default_factory=DecodingOptions)
    priority: int = 0
    group: str = ""
    speech: tuple[tuple[int, int], ...] = ()
    window: Window | None = None
    adapter: str = ""

    def __post_init__(self) -> None:
        if self.pcm.dtype != np.int16 or self.pcm.ndim != 1:
            raise ValueError(
                f"pcm must be int16 of shape (n_samples,), got {self.pcm.dtype} {self.pcm.shape}"
            )
        if not 1 <= len(self.pcm) <= N_SAMPLES:
            raise ValueError(f"pcm must hold 1 to {N_SAMPLES} samples, got {len(self.pcm)}")

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, with the punctuation at it and the blank before it.

    `probability` is the mean of its tokens'. Words are in order, none overlaps another, and none
    is shorter than 20 ms.
    """

    start_s: float
    end_s: float
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A timed piece of text. `end_s` is None where the model gave no end. `logprobs` has the
    natural logarithm of each token's probability, timestamps too. `words` is empty unless they were
    asked for; their times do not depend on those of the segment."""

    start_s: float
    end_s: float | None
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A finished request.

    `tokens` are a prefix and all sampled tokens with timestamps, without the end token.
    `avg_logprob` (natural logarithm, end token counted; of what was sampled) and `no_speech_prob`
    are those of openai/whisper's `DecodingResult`, and `compression_ratio` is that of
    `engine.decoding.segments`. `timings_s` holds the seconds spent `waiting`, in `prefill`
    (features, encoder, prompt) and in `decode`; `device_s` is its part of the engine's own time,
    each step shared evenly by the slots in use: all parts together are the time that the engine was
    busy. `n_frames` is the length of the window that the encoder saw, in frames of 20 ms: 1500, or
    less for a short one, whose text is to be taken only if it looks right. `language_probs` has all
    languages that came into question, the likeliest first, if only the language was asked for.
    """

    request_id: str
    tokens: tuple[int, ...]
    segments: tuple[Segment, ...]
    text: str
    language: str
    language_prob: float
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    finish_reason: FinishReason
    timings_s: dict[str, float]
    device_s: float = 0.0
    language_probs: tuple[tuple[str, float], ...] = ()
    n_frames: int = N_FRAMES
