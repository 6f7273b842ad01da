"""What a caller may ask of a transcription, over HTTP or a handle."""

from dataclasses import dataclass, field

from deployments.chunking import ChunkingOptions
from deployments.errors import OptionError
from deployments.fallback import FallbackOptions
from deployments.fleet import Priority, Quality
from deployments.tier import TierInfo
from deployments.transcription import TranscriptionOptions
from deployments.vad import VadOptions
from engine import DecodingOptions, language_code
from engine.request import Task

AUTO = "auto"
"""The model of who leaves the choice to the cluster."""
MAX_CONTEXT_CHUNKS = 64
MAX_PROMPT_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class TranscribeOptions:
    """Options of one file.

    Args:
        model: a tier, an alias, or `auto`: each chunk goes to the cheapest tier that suits it.
        task: `transcribe`, or `translate` to English.
        language: ISO code or English name; None: told from the first speech.
        languages: those that it may be, for a detection among them. One alone is as `language`.
        prompt: text that the transcript is to continue.
        keywords: words to expect; they go before the prompt, and share its room.
        temperature: 0: greedy, and hotter only where the text looks wrong; else fixed, up to 1.
        context_chunks: chunks in a row that are told the text before them. 1: all chunks at once.
        vad: when frames become speech.
        chunking: how speech is cut.
        quality: how accurate, where the model is `auto`; None: the cluster's default.
        priority: who goes first; within one, requests share fairly.
        deadline_s: seconds that it may take; None: the cluster's limit.

    Raises:
        OptionError: a value that cannot be.
    """

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
        if self.language is not None and self.languages:
            raise OptionError("give either language or languages", "languages")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise OptionError(f"deadline_s must be positive, got {self.deadline_s}", "deadline_s")

    def to_transcription_options(self, info: TierInfo) -> TranscriptionOptions:
        """For a tier's model.

        Raises:
            OptionError: it does not have the language, or cannot translate.
        """
        if self.task == "translate" and not info.multilingual:
            raise OptionError(f"the model {self.model!r} is English-only: no translation", "model")
        language = None if self.language is None else _known(self.language, info, "language")
        languages = tuple(_known(name, info, "languages") for name in self.languages)
        if len(languages) == 1:
            language, languages = languages[0], ()
        ladder = FallbackOptions().temperatures
        temperatures = (self.temperature,) if self.temperature > 0 else ladder
        try:
            decoding = DecodingOptions(
                task=self.task, language=language, languages=languages, prompt=self._prompt()
            )
        except ValueError as error:
            raise OptionError(str(error), "prompt") from error
        return TranscriptionOptions(
            decoding=decoding,
            fallback=FallbackOptions(temperatures),
            chunking=self.chunking,
            vad=self.vad,
            context_chunks=self.context_chunks,
            priority=self.priority.rank,
        )

    def _prompt(self) -> str | None:
        words = ", ".join(word.strip() for word in self.keywords)
        prompt = " ".join(part for part in (words and words + ".", self.prompt) if part)
        # The engine takes the last 223 tokens, and would read all of it to find them, each chunk.
        return prompt[-MAX_PROMPT_CHARACTERS:] or None


def _known(name: str, info: TierInfo, option: str) -> str:
    code = language_code(name)
    if code not in info.languages:
        known = " ".join(sorted(info.languages))
        raise OptionError(f"unsupported language {name!r}; this model has: {known}", option)
    return code
