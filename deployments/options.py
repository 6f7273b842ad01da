"""Options of a transcription, for calls over HTTP and over a handle."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from deployments.errors import OptionError
from deployments.fleet import Priority, Quality
from engine import DecodingOptions, language_code
from engine.request import Task

AUTO = "auto"
"""Model name with which a caller leaves the choice of tier to the cluster."""
BEST_BEAM_SIZE = 5
"""Beams where the best quality is asked for, or a greedy text is unsure: as many as
openai/whisper's command line uses by default."""
MAX_CONTEXT_CHUNKS = 64

_WORKER_ID = re.compile("[0-9a-f]{56}")
_STRICT = {"extra": "forbid"}
"""Configuration for pydantic, which validates options that come as a mapping."""


@dataclass(frozen=True, slots=True)
class VadOptions:
    """Which frames form a region of speech.

    Args:
        threshold: a region starts at a frame with at least this speech probability. It may end at
            frames that are 0.15 below it, the margin of Silero's own segmentation.
        min_silence_s: a region ends where speech pauses this long.
        min_speech_s: shorter regions are taken for clicks and dropped.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT

    threshold: float = 0.5
    min_silence_s: float = 0.16
    min_speech_s: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")
        if self.min_silence_s < 0 or self.min_speech_s < 0:
            raise ValueError("min_silence_s and min_speech_s must not be negative")


@dataclass(frozen=True, slots=True)
class ChunkingOptions:
    """How speech is cut into chunks.

    Args:
        max_chunk_s: longest chunk. Slightly less than the model's 30 s leaves room for the last
            timestamp.
        pad_before_s, pad_after_s: silence kept before and after speech, where there is silence. The
            padding before is short, because Whisper's first timestamp tends to be the very
            beginning of a chunk.
        max_pause_s: longer pauses inside a chunk are shortened to the sum of the two paddings.
        cut_window: fraction of a chunk, from its end, in which the longest pause is chosen as the
            cut.
        max_silence_s: after this much silence a chunk is sent even if it is not full, so that its
            text is not delayed and the silence is not kept.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT

    max_chunk_s: float = 29.5
    pad_before_s: float = 0.2
    pad_after_s: float = 0.8
    max_pause_s: float = 4.0
    cut_window: float = 0.4
    max_silence_s: float = 10.0

    def __post_init__(self) -> None:
        if not 3.0 <= self.max_chunk_s <= 30.0:
            raise ValueError(f"max_chunk_s must be between 3 and 30, got {self.max_chunk_s}")
        for name in ("pad_before_s", "pad_after_s"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.max_pause_s < self.pad_before_s + self.pad_after_s:
            raise ValueError("max_pause_s must not be less than pad_before_s and pad_after_s")
        if not 0.0 < self.cut_window <= 1.0:
            raise ValueError(f"cut_window must be between 0 and 1, got {self.cut_window}")
        if self.max_silence_s < self.max_pause_s:
            raise ValueError("max_silence_s must not be less than max_pause_s")


@dataclass(frozen=True, slots=True)
class TranscribeOptions:
    """Options of one file.

    Args:
        model: a tier, an alias, or `auto`: each chunk goes to the cheapest tier that suits it.
        task: `transcribe`; `translate` to English; or `detect_language`, which gives no text.
        language: any name that `engine.language_code` knows, such as `de`, `pt-BR` or `English`;
            None or `auto`: detected from the first speech.
        languages: candidates for language detection. A single entry has the same effect as
            `language`.
        multilingual: whether the language is detected for each chunk instead of once, for files in
            which several are spoken; among `languages` if they are given.
        prompt: text that the transcript continues. The last words are used, up to 223 tokens.
        keywords: words to expect, the most important first. All of them are favoured as the text is
            decoded, and those that fit in half of the prompt's room stand there as well. A comma in
            an entry splits it. A blank, a colon and a number at the end, as in `Samarkand :2`, are
            the keyword's weight: a factor of `keyword_boost`, 0 to 10.
        keyword_boost: how much keywords are favoured, 0 to 10. 0: they stand in the prompt alone.
        temperature: 0: greedy decoding, with higher temperatures only where the text looks wrong;
            above 0: this fixed temperature, at most 1.
        beam_size: texts that are followed side by side where the temperature is 0, at most 16; each
            takes one of the model's slots. 1: greedy. `auto`: greedy first, and `BEST_BEAM_SIZE`
            for chunks whose greedy text is unsure. None: 1, or `BEST_BEAM_SIZE` for the model
            `auto` with the quality `best`.
        patience: a beam search ends when `beam_size * patience` texts have ended.
        best_of: texts that are sampled where the temperature is above 0, of which the likeliest is
            kept; each takes a slot.
        length_penalty: how texts of several lengths are compared, see `engine.DecodingOptions`.
        words: whether to find out when each word was said.
        hallucination_silence_threshold: openai/whisper's option: a segment whose words are
            improbable, too short or too long is dropped where nothing else is said for more than so
            many seconds before and after it, and a warning says so. None: nothing is dropped.
        context_chunks: length of a row of chunks that are decoded one after another, each with the
            text before it as context. 1: no context, all chunks are decoded at once.
        vad: which frames are speech.
        chunking: how speech is cut.
        quality: required accuracy if the model is `auto`; None: the cluster's default.
        priority: which requests go first. Requests of the same priority share fairly.
        deadline_s: seconds that the request may take; None: the cluster's limit.
        track: which of several audio tracks to use: a number from 1, or a language; None: the best.
        caller: Ray worker ID of the process that waits for the result; when that process is gone,
            the work is stopped. If the options are pickled in a process of a Ray cluster, this is
            set to that process, whatever value was given.

    Raises:
        OptionError: a value is invalid.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT

    model: str = "whisper-1"
    task: Task = "transcribe"
    language: str | None = None
    languages: tuple[str, ...] = ()
    multilingual: bool = False
    prompt: str | None = None
    keywords: tuple[str, ...] = ()
    keyword_boost: float = 1.0
    temperature: float = 0.0
    beam_size: int | Literal["auto"] | None = None
    patience: float = 1.0
    best_of: int = 1
    length_penalty: float | None = None
    words: bool = False
    hallucination_silence_threshold: float | None = None
    context_chunks: int = 1
    vad: VadOptions = field(default_factory=VadOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    quality: Quality | None = None
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    track: str | None = None
    caller: str | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Callable[..., "TranscribeOptions"], tuple[dict[str, Any]]]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return _unpickled, (values | {"caller": this_process()},)

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            names = ", ".join(get_args(Task))
            raise OptionError(f"task must be one of {names}, got {self.task!r}", "task")
        if self.temperature != 0 and not 0.01 <= self.temperature <= 1:
            raise OptionError(
                f"temperature must be 0 or 0.01 to 1, got {self.temperature}", "temperature"
            )
        self._check_decoding()
        silence_s = self.hallucination_silence_threshold
        if silence_s is not None and not 0 <= silence_s < float("inf"):
            raise OptionError(
                f"hallucination_silence_threshold must not be negative, got {silence_s}",
                "hallucination_silence_threshold",
            )
        if not 1 <= self.context_chunks <= MAX_CONTEXT_CHUNKS:
            raise OptionError(
                f"context_chunks must be 1 to {MAX_CONTEXT_CHUNKS}, got {self.context_chunks}",
                "context_chunks",
            )
        named = self.language is not None and language_code(self.language) is not None
        if named and self.languages:
            raise OptionError("give either language or languages", "languages")
        if named and self.task == "detect_language":
            raise OptionError("the language is what is asked for", "language")
        if named and self.multilingual:
            raise OptionError("give either language or multilingual", "multilingual")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise OptionError(f"deadline_s must be positive, got {self.deadline_s}", "deadline_s")
        if self.caller is not None and not _WORKER_ID.fullmatch(self.caller):
            raise OptionError(f"caller must be a Ray worker ID, got {self.caller!r}", "caller")

    def _check_decoding(self) -> None:
        for name in ("beam_size", "patience", "best_of", "length_penalty", "keyword_boost"):
            value = getattr(self, name)
            if value is None or (name, value) == ("beam_size", AUTO):
                continue
            try:
                DecodingOptions(**{name: value})
            except ValueError as error:
                raise OptionError(str(error), name) from error


def _unpickled(values: dict[str, Any]) -> TranscribeOptions:
    return TranscribeOptions(**values)


def this_process() -> str | None:
    """The Ray worker ID of this process. None outside a Ray cluster; Ray is not imported to find
    out."""
    ray = sys.modules.get("ray")
    if ray is None or not ray._private.worker.global_worker.connected:
        return None
    worker_id: str = ray._private.worker.global_worker.core_worker.get_worker_id().hex()
    return worker_id
