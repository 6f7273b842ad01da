"""The form fields of a transcription request, as OpenAI names them, and what they ask for.

A field that this server does not know, or knows and does not support, is refused by its name:
nothing is ignored in silence. An empty one is as one that is not given.
"""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from deployments.fleet import Priority, Quality
from deployments.options import MAX_CONTEXT_CHUNKS, ChunkingOptions, TranscribeOptions, VadOptions
from engine.request import Task

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
LISTS = ("languages", "keywords", "timestamp_granularities", "include")
_STRATEGY = "chunking_strategy"
_SERVER_VAD = "server_vad"
_LISTED = re.compile(r"(.+)\[\d*\]")
"""How clients write the name of a list: `languages[]`, or `languages[0]`."""
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


def _lowered(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


_AnyCase = BeforeValidator(_lowered)


class ServerVad(BaseModel):
    """How speech is found, where `chunking_strategy` says more than `auto`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Annotated[Literal["server_vad"], _AnyCase]
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
    """`POST /v1/audio/translations`; what says how to listen is an addition to OpenAI's fields."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, Field(max_length=256)]
    """A tier, one of the aliases, or `auto`: each chunk goes to the cheapest tier that suits it."""
    language: str | None = None
    """The speech's: ISO code, locale or English name; by default, and with `auto`, the first speech
    tells."""
    languages: list[str] = []
    """Languages that it may be."""
    prompt: str | None = None
    """Text that the transcript is to continue: names, spelling, style. Its last words are used, up
    to 223 tokens."""
    keywords: list[str] = []
    """Words to expect, the most important first: those that fit half of the prompt's room are
    used."""
    chunking_strategy: Literal["auto"] | ServerVad = "auto"
    """How speech is found and cut."""
    response_format: Annotated[ResponseFormat, _AnyCase] = "json"
    """What the answer looks like."""
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """0: greedy, and hotter only where the text looks wrong; else fixed, from 0.01 on."""
    stream: bool = False
    """Answer with server-sent events while text becomes final. An addition to OpenAI's fields."""
    context_chunks: Annotated[int, Field(ge=1, le=MAX_CONTEXT_CHUNKS)] = 1
    """Chunks in a row that are told the text before them; 1: all at once. An addition to OpenAI's
    fields."""
    quality: Annotated[Quality | None, _AnyCase] = None
    """How accurate, with the model `auto`: `fast`, `balanced` or `best`. An addition to OpenAI's
    fields."""
    priority: Annotated[Priority, _AnyCase] = Priority.INTERACTIVE
    """`realtime`, `interactive` or `batch`: who goes first, and how long chunks may wait. An
    addition to OpenAI's fields."""
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds that the answer may take; by default the cluster's limit. An addition to OpenAI's
    fields."""
    track: str | None = None
    """Of a file with several audio tracks: a number from 1, or a language. An addition to OpenAI's
    fields."""

    def options(self, task: Task = "translate") -> TranscribeOptions:
        """What is asked of the ingress.

        Raises:
            OptionError: a value that cannot be.
        """
        vad, chunking = VadOptions(), ChunkingOptions()
        if isinstance(strategy := self.chunking_strategy, ServerVad):
            vad = VadOptions(strategy.threshold, strategy.silence_duration_ms / 1000)
            chunking = ChunkingOptions(pad_before_s=strategy.prefix_padding_ms / 1000)
        return TranscribeOptions(
            model=self.model,
            task=task,
            language=self.language,
            languages=tuple(self.languages),
            prompt=self.prompt,
            keywords=tuple(self.keywords),
            temperature=self.temperature,
            context_chunks=self.context_chunks,
            vad=vad,
            chunking=chunking,
            quality=self.quality,
            priority=self.priority,
            deadline_s=self.deadline_s,
            track=self.track or None,
        )


class TranscriptionFields(TranslationFields):
    """`POST /v1/audio/transcriptions`."""

    timestamp_granularities: list[Annotated[Literal["segment", "word"], _AnyCase]] = []
    """What `verbose_json` gives times of; by default segments."""
    include: list[Annotated[Literal["logprobs"], _AnyCase]] = []
    """`logprobs`: each token's log-probability, in `json` and in streams of it."""

    def options(self, task: Task = "transcribe") -> TranscribeOptions:
        return super().options(task)

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

    Lists are repeated fields, with `[]` behind their names or without, arrays of JSON, or, but for
    keywords, parted by commas; of keywords commas are a matter of the prompt.

    Raises:
        FieldError: an unknown or unsupported field, or a value that cannot be.
    """
    values: dict[str, Any] = {}
    for name, value in items:
        _put(values, name, value.strip(), kind)
    try:
        fields = kind.model_validate(values)
    except ValidationError as error:
        raise _field_error(error) from error
    if isinstance(fields, TranscriptionFields):
        fields.check()
    return fields


def _put(values: dict[str, Any], name: str, value: str, kind: type[BaseModel]) -> None:
    listed = _LISTED.fullmatch(name)
    plain = listed[1] if listed else name
    key = name[len(_STRATEGY) + 1 : -1] if name.startswith(f"{_STRATEGY}[") else ""
    is_known = key or plain in kind.model_fields or plain in _UNSUPPORTED
    if not value and is_known:
        return
    if plain in _UNSUPPORTED:
        raise FieldError(f"{plain} is not supported: {_UNSUPPORTED[plain]}", plain, "unsupported")
    if plain in LISTS:
        values.setdefault(plain, []).extend(_items(plain, value))
    elif key:
        strategy = values.setdefault(_STRATEGY, {})
        if not isinstance(strategy, dict) or key in strategy:
            raise FieldError(f"{_STRATEGY} is given twice", _STRATEGY)
        strategy[key] = value
    elif name in values:
        raise FieldError(f"{name} is given twice", name)
    else:
        values[name] = _strategy(value) if name == _STRATEGY else value


def _items(name: str, value: str) -> list[str]:
    """The items of a list that are in one field."""
    items = _json(value) if value.startswith("[") else None
    if not isinstance(items, list) or not all(
        isinstance(item, str | int | float) for item in items
    ):
        items = [value] if name == "keywords" else value.split(",")
    return [text for item in items if (text := str(item).strip())]


def _strategy(value: str) -> Any:
    """`auto`, `server_vad`, or an object of JSON."""
    name = _lowered(value)
    if name == "auto":
        return name
    strategy = {"type": name} if name == _SERVER_VAD else _json(value)
    if not isinstance(strategy, dict):
        what = f"must be auto, {_SERVER_VAD} or an object of JSON"
        raise FieldError(f"invalid {_STRATEGY}: it {what}", _STRATEGY)
    return {key: item for key, item in strategy.items() if item is not None}


def _json(text: str) -> Any:
    """None for what is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the latter of brackets in brackets, without end
        return None


def _field_error(error: ValidationError) -> FieldError:
    """The first fault, in words."""
    faults = error.errors(include_url=False, include_context=False)
    # An object that is no strategy is no word either, which is told first and helps nobody.
    fault = faults[-1] if faults[0]["loc"][0] == _STRATEGY else faults[0]
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        return FieldError(f"unknown field {name[:80]!r}", name[:80], "unknown_parameter")
    if fault["type"] == "missing" and len(fault["loc"]) == 1:
        return FieldError(f"{name} must be given", name, "missing_required_parameter")
    if name == "response_format" and fault["input"] == "diarized_json":
        return FieldError(
            "response_format=diarized_json is not supported: speakers are not told apart",
            name,
            "unsupported",
        )
    keys = "".join(f"[{key}]" for key in fault["loc"][1:] if key != ServerVad.__name__)
    return FieldError(f"invalid {name}{keys}: {fault['msg']}", name)
