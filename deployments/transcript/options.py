"""What the state machine of a file is told: a caller's options, once the model is known."""

from dataclasses import dataclass, field

from deployments.errors import OptionError
from deployments.options import ChunkingOptions, TranscribeOptions, VadOptions
from deployments.tier import TierInfo
from deployments.transcript.cascade import Ladder
from deployments.transcript.coverage import CoverageOptions
from deployments.transcript.fallback import FallbackOptions
from engine import DecodingOptions, language_code

_MAX_PROMPT_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """What a caller asks of a file.

    Args:
        decoding: options of every chunk. Its language None means that the file's first speech
            tells the language of all of it. Temperatures are those of `fallback`, and previous
            tokens come from the file itself, so neither may be set here.
        fallback: when to decode again.
        detections: chunks that may be asked for the language, one after another, until one is
            sure of it (a probability of one half).
        tail_s: speech that a chunk leaves without text is decoded again if it is longer than this.
        coverage: when a text has too few words for its speech, and is decoded again, too.
        ladder: None: all chunks go to one tier. It needs `context_chunks` 1: a tier's tokens mean
            something else to another one.
        context_chunks: length of a row of chunks that are decoded one after another, each with the
            text of those before it as its prompt; rows run side by side. 1: every chunk alone, all
            at once.
    """

    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    fallback: FallbackOptions = field(default_factory=FallbackOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    vad: VadOptions = field(default_factory=VadOptions)
    detections: int = 3
    tail_s: float = 1.0
    coverage: CoverageOptions = field(default_factory=CoverageOptions)
    context_chunks: int = 1
    priority: int = 0
    ladder: Ladder | None = None

    def __post_init__(self) -> None:
        if self.context_chunks < 1:
            raise ValueError(f"context_chunks must be at least 1, got {self.context_chunks}")
        if self.ladder is not None and self.context_chunks > 1:
            raise ValueError("chunks that are told the text before them stay on one tier")
        if self.detections < 1:
            raise ValueError(f"detections must be at least 1, got {self.detections}")
        if self.decoding.task == "detect_language":
            raise ValueError("a file is transcribed or translated; detection is a part of both")
        if self.decoding.temperature != 0.0:
            raise ValueError("set the temperatures in fallback, not in decoding")
        if self.decoding.previous_tokens:
            raise ValueError("previous tokens come from the file: set a prompt instead")


def transcription_options(asked: TranscribeOptions, info: TierInfo) -> TranscriptionOptions:
    """What a caller asks, for a tier's model.

    Raises:
        OptionError: it does not have the language, or cannot translate.
    """
    if asked.task == "translate" and not info.multilingual:
        raise OptionError(f"the model {asked.model!r} is English-only: no translation", "model")
    language = None if asked.language is None else _known(asked.language, info, "language")
    languages = tuple(_known(name, info, "languages") for name in asked.languages)
    if len(languages) == 1:
        language, languages = languages[0], ()
    try:
        decoding = DecodingOptions(
            task=asked.task, language=language, languages=languages, prompt=_prompt(asked)
        )
    except ValueError as error:
        raise OptionError(str(error), "prompt") from error
    ladder = FallbackOptions().temperatures
    return TranscriptionOptions(
        decoding=decoding,
        fallback=FallbackOptions((asked.temperature,) if asked.temperature > 0 else ladder),
        chunking=asked.chunking,
        vad=asked.vad,
        context_chunks=asked.context_chunks,
        priority=asked.priority.rank,
    )


def _prompt(asked: TranscribeOptions) -> str | None:
    words = ", ".join(word.strip() for word in asked.keywords)
    prompt = " ".join(part for part in (words and words + ".", asked.prompt) if part)
    # The engine takes the last 223 tokens, and would read all of it to find them, each chunk.
    return prompt[-_MAX_PROMPT_CHARACTERS:] or None


def _known(name: str, info: TierInfo, option: str) -> str:
    code = language_code(name)
    if code not in info.languages:
        known = " ".join(sorted(info.languages))
        raise OptionError(f"unsupported language {name!r}; this model has: {known}", option)
    return code
