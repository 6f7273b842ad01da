"""What a caller may ask of a transcription, over HTTP or a handle."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from deployments.errors import OptionError
from deployments.fleet import Priority, Quality
from engine import language_code
from engine.request import Task

AUTO = "auto"
"""The model of who leaves the choice to the cluster."""
MAX_CONTEXT_CHUNKS = 64

_WORKER_ID = re.compile("[0-9a-f]{56}")
_STRICT = {"extra": "forbid"}
"""For pydantic, where options come as a mapping."""


@dataclass(frozen=True, slots=True)
class VadOptions:
    """When frames become a region of speech.

    Args:
        threshold: a region starts at a frame of at least this probability; it may end at frames
            0.15 below it, the margin of Silero's own segmentation.
        min_silence_s: a region ends where speech pauses this long.
        min_speech_s: shorter regions are taken for clicks.
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
    """How speech is cut.

    Args:
        max_chunk_s: longest chunk; a little under the model's 30 s leaves room for the last
            timestamp.
        pad_before_s, pad_after_s: silence kept before and after speech, where there is any. Little
            before it, since the first timestamp tends to be the very beginning of a chunk.
        max_pause_s: longer pauses inside a chunk are shortened to these two.
        cut_window: part of a chunk, from its end, in which the longest pause is looked for.
        max_silence_s: after this much silence a chunk goes out as it is, so that text does not wait
            and silence is not kept.
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
        task: `transcribe`, or `translate` to English.
        language: by any name that `engine.language_code` knows, such as `de`, `pt-BR` or `English`;
            None or `auto`: told from the first speech.
        languages: those that it may be, for a detection among them. One alone is as `language`.
        prompt: text that the transcript is to continue; its last words are used, up to 223 tokens.
        keywords: words to expect, the most important first: those that fit half of the prompt's
            room are used. A comma in one parts it.
        temperature: 0: greedy, and hotter only where the text looks wrong; else fixed, up to 1.
        context_chunks: chunks in a row that are told the text before them. 1: all chunks at once.
        vad: when frames become speech.
        chunking: how speech is cut.
        quality: how accurate, where the model is `auto`; None: the cluster's default.
        priority: who goes first; within one, requests share fairly.
        deadline_s: seconds that it may take; None: the cluster's limit.
        track: of a file with several audio tracks: a number from 1, or a language; None: the best.
        caller: Ray worker ID of the process that waits; when that is gone, the work is stopped.
            Where options are pickled in a process of a Ray cluster, it is that one, whatever was
            given.

    Raises:
        OptionError: a value that cannot be.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT

    model: str = "whisper-1"
    task: Task = "transcribe"
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str | None = None
    keywords: tuple[str, ...] = ()
    temperature: float = 0.0
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
        return _unpickled, (values | {"caller": _this_process()},)

    def __post_init__(self) -> None:
        if self.task not in ("transcribe", "translate"):
            raise OptionError(f"task must be transcribe or translate, got {self.task!r}", "task")
        if self.temperature != 0 and not 0.01 <= self.temperature <= 1:
            raise OptionError(
                f"temperature must be 0 or 0.01 to 1, got {self.temperature}", "temperature"
            )
        if not 1 <= self.context_chunks <= MAX_CONTEXT_CHUNKS:
            raise OptionError(
                f"context_chunks must be 1 to {MAX_CONTEXT_CHUNKS}, got {self.context_chunks}",
                "context_chunks",
            )
        named = self.language is not None and language_code(self.language) is not None
        if named and self.languages:
            raise OptionError("give either language or languages", "languages")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise OptionError(f"deadline_s must be positive, got {self.deadline_s}", "deadline_s")
        if self.caller is not None and not _WORKER_ID.fullmatch(self.caller):
            raise OptionError(f"caller must be a Ray worker ID, got {self.caller!r}", "caller")


def _unpickled(values: dict[str, Any]) -> TranscribeOptions:
    return TranscribeOptions(**values)


def _this_process() -> str | None:
    """This process' Ray worker ID; None outside of a Ray cluster, where Ray is not even imported
    for it."""
    ray = sys.modules.get("ray")
    if ray is None or not ray._private.worker.global_worker.connected:
        return None
    worker_id: str = ray._private.worker.global_worker.core_worker.get_worker_id().hex()
    return worker_id
