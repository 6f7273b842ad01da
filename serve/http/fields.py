"""The form fields of a transcription request, as OpenAI names them, and what they ask for.

A field that this server does not know, or knows and does not support, is refused by its name:
nothing is ignored in silence.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.fleet import Priority, Quality
from deployments.options import MAX_CONTEXT_CHUNKS, ChunkingOptions, TranscribeOptions, VadOptions
from engine.request import Task

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
LISTS = ("languages", "keywords", "timestamp_granularities", "include")
_STRATEGY = "chunking_strategy"
_UNSUPPORTED = {
    "known_speaker_names": "speakers are not told apart",
    "known_speaker_references": "speakers are not told apart",
}


class FieldError(Exception):
    """A field that cannot be; `code` as in OpenAI's error bodies."""

    def __init__(self, message: str, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ServerVad(BaseModel):
    """How speech is found, where `chunking_strategy` says more than `auto`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(gt=0, lt=1)] = VadOptions().threshold
    """A frame of at least this probability is speech."""
    prefix_padding_ms: Annotated[int, Field(ge=0, le=1000)] = round(
        1000 * ChunkingOptions().pad_before_s
    )
    """Audio kept before speech."""
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] = round(
        1000 * VadOptions().min_silence_s
    )
    """Speech ends where it pauses this long."""


class TranslationFields(BaseModel):
    """`POST /v1/audio/translations`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str
    """A tier, one of the aliases, or `auto`: each chunk goes to the cheapest tier that suits it."""
    prompt: str | None = None
    """Text that the transcript is to continue: names, spelling, style."""
    response_format: ResponseFormat = "json"
    """What the answer looks like."""
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: greedy, and hotter only where the text looks wrong; else fixed, from 0.01 on."""
    stream: bool = False
    """Answer with server-sent events while text becomes final. An addition to OpenAI's fields."""
    context_chunks: Annotated[int, Field(ge=1, le=MAX_CONTEXT_CHUNKS)] = 1
    """Chunks in a row that are told the text before them; 1: all at once. An addition to OpenAI's
    fields."""
    quality: Quality | None = None
    """How accurate, with the model `auto`: `fast`, `balanced` or `best`. An addition to OpenAI's
    fields."""
    priority: Priority = Priority.INTERACTIVE
    """`realtime`, `interactive` or `batch`: who goes first, and how long chunks may wait. An
    addition to OpenAI's fields."""
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds that the answer may take; by default the cluster's limit. An addition to OpenAI's
    fields."""

    def options(self, task: Task = "translate", **more: Any) -> TranscribeOptions:
        """What is asked of the ingress.

        Raises:
            OptionError: a value that cannot be.
        """
        return TranscribeOptions(
            model=self.model,
            task=task,
            prompt=self.prompt or None,
            temperature=self.temperature,
            context_chunks=self.context_chunks,
            quality=self.quality,
            priority=self.priority,
            deadline_s=self.deadline_s,
            **more,
        )


class TranscriptionFields(TranslationFields):
    """`POST /v1/audio/transcriptions`."""

    language: str | None = None
    """ISO code or English name; by default the first speech tells."""
    languages: list[str] = []
    """Languages that it may be."""
    keywords: list[str] = []
    """Words to expect."""
    timestamp_granularities: list[Literal["segment", "word"]] = []
    """What `verbose_json` gives times of; by default segments."""
    include: list[Literal["logprobs"]] = []
    """`logprobs`: each token's log-probability, in `json` and in streams of it."""
    chunking_strategy: Literal["auto"] | ServerVad = "auto"
    """How speech is found and cut."""

    def options(self, task: Task = "transcribe", **more: Any) -> TranscribeOptions:
        vad, chunking = VadOptions(), ChunkingOptions()
        if isinstance(strategy := self.chunking_strategy, ServerVad):
            vad = VadOptions(strategy.threshold, strategy.silence_duration_ms / 1000)
            chunking = ChunkingOptions(pad_before_s=strategy.prefix_padding_ms / 1000)
        return super().options(
            task,
            language=self.language or None,
            languages=tuple(self.languages),
            keywords=tuple(self.keywords),
            vad=vad,
            chunking=chunking,
            **more,
        )

    def check(self) -> None:
        """Raises FieldError for fields that do not go together, and for what is not there yet."""
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise FieldError(
                "timestamp_granularities needs response_format=verbose_json",
                "timestamp_granularities",
            )
        if "word" in self.timestamp_granularities:
            raise FieldError(
                "times of words are not supported yet", "timestamp_granularities", "unsupported"
            )
        if self.include and self.response_format != "json":
            raise FieldError("include=logprobs needs response_format=json", "include")


Fields = TypeVar("Fields", bound=TranslationFields)


def parse_fields(items: Sequence[tuple[str, str]], kind: type[Fields]) -> Fields:
    """Form fields, in order, to a checked request.

    Lists are repeated fields, with `[]` behind their names or without.

    Raises:
        FieldError: an unknown or unsupported field, or a value that cannot be.
    """
    values: dict[str, Any] = {}
    for name, value in items:
        _put(values, name, value)
    try:
        fields = kind.model_validate(values)
    except ValidationError as error:
        raise _field_error(error, kind) from error
    if isinstance(fields, TranscriptionFields):
        fields.check()
    return fields


def _put(values: dict[str, Any], name: str, value: str) -> None:
    if name == "file":
        raise FieldError("file must be a file, with a filename", name)
    plain = name.removesuffix("[]")
    if plain in _UNSUPPORTED:
        raise FieldError(f"{plain} is not supported: {_UNSUPPORTED[plain]}", plain, "unsupported")
    if plain in LISTS:
        values.setdefault(plain, []).append(value)
    elif name.startswith(f"{_STRATEGY}[") and name.endswith("]"):
        strategy = values.setdefault(_STRATEGY, {})
        if not isinstance(strategy, dict):
            raise FieldError(f"{_STRATEGY} is given twice", _STRATEGY)
        strategy[name[len(_STRATEGY) + 1 : -1]] = value
    elif name in values:
        raise FieldError(f"{name} is given twice", name)
    else:
        values[name] = value


def _field_error(error: ValidationError, kind: type[BaseModel]) -> FieldError:
    """The first fault, in words."""
    fault = error.errors(include_url=False, include_context=False)[0]
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        return FieldError(f"unknown field {name!r}", name, "unknown_parameter")
    if fault["type"] == "missing" and len(fault["loc"]) == 1:
        return FieldError(f"{name} must be given", name, "missing_required_parameter")
    if name == "response_format" and fault["input"] == "diarized_json":
        return FieldError(
            "response_format=diarized_json is not supported: speakers are not told apart",
            name,
            "unsupported",
        )
    return FieldError(f"invalid {name}: {fault['msg']}", name)
