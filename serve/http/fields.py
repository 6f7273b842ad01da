"""The form fields of a transcription request, with OpenAI's names, and the options they stand for.

A field that is unknown or not supported is refused by name; nothing is silently ignored. An empty
field counts as not given.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from deployments.fleet import Priority, Quality
from deployments.options import MAX_CONTEXT_CHUNKS, ChunkingOptions, TranscribeOptions, VadOptions
from engine.request import MAX_BOOST, MAX_TEXTS, Task
from serve.elsewhere import of_field
from serve.http.cue_limits import CueLimits

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
LISTS = ("languages", "keywords", "timestamp_granularities", "include")
_STRATEGY = "chunking_strategy"
_SERVER_VAD = "server_vad"
_LISTED = re.compile(r"(.+)\[\d*\]")
"""How clients write the name of a list: `languages[]` or `languages[0]`."""
_UNSUPPORTED = {
    "known_speaker_names": "speakers are not told apart",
    "known_speaker_references": "speakers are not told apart",
}


class FieldError(Exception):
    """A form field is wrong. `param` and `code` are those of OpenAI's error body."""

    def __init__(self, message: str, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def _lowered(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


_AnyCase = BeforeValidator(_lowered)


class ServerVad(BaseModel):
    """How speech is found, if `chunking_strategy` is not `auto`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Annotated[Literal["server_vad"], _AnyCase]
    threshold: Annotated[float, Field(gt=0, lt=1)] = VadOptions().threshold
    """A frame with at least this probability of speech counts as speech."""
    prefix_padding_ms: Annotated[int, Field(ge=0, le=1000)] = round(
        1000 * ChunkingOptions().pad_before_s
    )
    """Milliseconds of audio kept before speech."""
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] = round(
        1000 * VadOptions().min_silence_s
    )
    """Speech ends at a pause of this many milliseconds."""


class DetectionFields(BaseModel):
    """Fields of `POST /v1/audio/detect-language`, which all forms have."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, Field(max_length=256)]
    """A tier, an alias, or `auto`, which sends each chunk to the cheapest tier that suits it."""
    languages: list[str] = []
    """Languages among which the detection chooses."""
    chunking_strategy: Literal["auto"] | ServerVad = "auto"
    """How speech is found and cut."""
    quality: Annotated[Quality | None, _AnyCase] = None
    """How accurate the model `auto` is to be: `fast`, `balanced` or `best`. An addition to OpenAI's
    fields."""
    priority: Annotated[Priority, _AnyCase] = Priority.INTERACTIVE
    """`realtime`, `interactive` or `batch`: which requests go first, and how long their chunks may
    wait. An addition to OpenAI's fields."""
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds that the answer may take; by default the cluster's limit. An addition to OpenAI's
    fields."""
    track: str | None = None
    """Which audio track of a file that has several: a number from 1, or a language. An addition to
    OpenAI's fields."""

    def options(self, task: Task = "detect_language") -> TranscribeOptions:
        """The fields as options for the ingress.

        Raises:
            OptionError: a value is not allowed.
        """
        vad, chunking = VadOptions(), ChunkingOptions()
        if isinstance(strategy := self.chunking_strategy, ServerVad):
            vad = VadOptions(strategy.threshold, strategy.silence_duration_ms / 1000)
            chunking = ChunkingOptions(pad_before_s=strategy.prefix_padding_ms / 1000)
        return TranscribeOptions(
            model=self.model,
            task=task,
            languages=tuple(self.languages),
            vad=vad,
            chunking=chunking,
            quality=self.quality,
            priority=self.priority,
            deadline_s=self.deadline_s,
            track=self.track or None,
        )


class TranslationFields(DetectionFields):
    """Fields of `POST /v1/audio/translations`. Those on how to listen are additions to OpenAI's."""

    language: str | None = None
    """Language of the speech: ISO code, locale or English name. By default, and with `auto`, it is
    detected from the first speech."""
    multilingual: bool = False
    """Detect the language of each chunk instead of once, for files with several; among `languages`
    if they are given. An addition to OpenAI's fields."""
    prompt: str | None = None
    """Text that the transcript continues, as a guide to names, spelling and style. Its last words
    are used, up to 223 tokens."""
    keywords: list[str] = []
    """Words to expect, the most important first. All are favoured as the text is decoded, and those
    that fit into half of the prompt's room stand there as well. An ending such as ` :2` is a
    keyword's weight, a factor of `keyword_boost`: an addition to OpenAI's fields, as the next."""
    keyword_boost: Annotated[float, Field(ge=0, le=MAX_BOOST, allow_inf_nan=False)] = 1.0
    """How much keywords are favoured. 0: they stand in the prompt alone."""
    response_format: Annotated[ResponseFormat, _AnyCase] = "json"
    """Format of the answer."""
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """0: greedy decoding, and higher temperatures only where the text looks wrong. From 0.01 on:
    this temperature throughout."""
    beam_size: (
        Annotated[int, Field(ge=1, le=MAX_TEXTS)] | Annotated[Literal["auto"], _AnyCase] | None
    ) = None
    """Beam search where the temperature is 0: as many texts are followed side by side. 1: greedy,
    the default except for the model `auto` with the quality `best`, which searches with 5. `auto`:
    greedy first, and 5 for chunks whose greedy text is unsure. An addition to OpenAI's fields, as
    the next three."""
    patience: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    """A beam search ends when `beam_size` times this many texts have ended."""
    best_of: Annotated[int, Field(ge=1, le=MAX_TEXTS)] = 1
    """Texts that are sampled where the temperature is above 0; the likeliest is kept."""
    length_penalty: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """How texts of several lengths are compared: by the mean log-probability of a token, or, with a
    number, by the sum divided by ((5 + length) / 6) to this power."""
    stream: bool = False
    """Answer with server-sent events as text becomes final. An addition to OpenAI's fields."""
    context_chunks: Annotated[int, Field(ge=1, le=MAX_CONTEXT_CHUNKS)] = 1
    """Number of chunks in a row that are decoded one after another, each with the text before it.
    1: all chunks at once. An addition to OpenAI's fields."""

    @property
    def cue_limits(self) -> CueLimits:
        """Limits of subtitles' cues. Words of a translation are not said at any time, so a cue is a
        segment."""
        return CueLimits()

    def options(self, task: Task = "translate") -> TranscribeOptions:
        return replace(
            super().options(task),
            language=self.language,
            multilingual=self.multilingual,
            prompt=self.prompt,
            keywords=tuple(self.keywords),
            keyword_boost=self.keyword_boost,
            temperature=self.temperature,
            beam_size=self.beam_size,
            patience=self.patience,
            best_of=self.best_of,
            length_penalty=self.length_penalty,
            context_chunks=self.context_chunks,
        )


class TranscriptionFields(TranslationFields):
    """Fields of `POST /v1/audio/transcriptions`."""

    timestamp_granularities: list[Annotated[Literal["segment", "word"], _AnyCase]] = []
    """What `verbose_json` gives timestamps for; by default segments."""
    hallucination_silence_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = (
        None
    )
    """Leave out segments that look made up, with more than so many seconds without words before and
    after them; openai/whisper's option. A warning says what was left out. An addition to OpenAI's
    fields."""
    include: list[Annotated[Literal["logprobs"], _AnyCase]] = []
    """`logprobs` adds each token's log-probability, with `json` and streams of it."""
    max_line_width: Annotated[int, Field(ge=1, le=1000)] = CueLimits().max_line_width
    """Characters of a line of subtitles. An addition to OpenAI's fields, as the next four."""
    max_line_count: Annotated[int, Field(ge=1, le=20)] = CueLimits().max_line_count
    """Lines of a cue of subtitles."""
    max_words_per_line: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Words of a line of subtitles."""
    max_cue_s: Annotated[float, Field(ge=0.5, le=60, allow_inf_nan=False)] = CueLimits().max_cue_s
    """Seconds of a cue of subtitles."""
    highlight_words: bool = False
    """Underline each word of subtitles while it is said."""

    def options(self, task: Task = "transcribe") -> TranscribeOptions:
        words = "word" in self.timestamp_granularities or self.response_format in ("srt", "vtt")
        return replace(
            super().options(task),
            words=words,
            hallucination_silence_threshold=self.hallucination_silence_threshold,
        )

    @property
    def cue_limits(self) -> CueLimits:
        return CueLimits(
            self.max_line_width,
            self.max_line_count,
            self.max_words_per_line,
            self.max_cue_s,
            self.highlight_words,
        )

    def check(self) -> None:
        """Raises FieldError for fields that contradict each other or are not implemented yet."""
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise FieldError(
                "timestamp_granularities needs response_format=verbose_json",
                "timestamp_granularities",
            )
        if self.include and self.response_format != "json":
            raise FieldError("include=logprobs needs response_format=json", "include")


Fields = TypeVar("Fields", bound=DetectionFields)


def parse_fields(items: Sequence[tuple[str, str]], kind: type[Fields]) -> Fields:
    """Convert form fields, in order, to a checked request.

    A list is a repeated field (with or without `[]` after its name), a JSON array, or values
    between commas. Keywords are not split at commas here; the prompt does that.

    Raises:
        FieldError: a field is unknown or not supported, or a value is not allowed.
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
    """The items of a list that one field holds."""
    items = _json(value) if value.startswith("[") else None
    if not isinstance(items, list) or not all(
        isinstance(item, str | int | float) for item in items
    ):
        items = [value] if name == "keywords" else value.split(",")
    return [text for item in items if (text := str(item).strip())]


def _strategy(value: str) -> Any:
    """Parse `auto`, `server_vad` or a JSON object."""
    name = _lowered(value)
    if name == "auto":
        return name
    strategy = {"type": name} if name == _SERVER_VAD else _json(value)
    if not isinstance(strategy, dict):
        what = f"must be auto, {_SERVER_VAD} or an object of JSON"
        raise FieldError(f"invalid {_STRATEGY}: it {what}", _STRATEGY)
    return {key: item for key, item in strategy.items() if item is not None}


def _json(text: str) -> Any:
    """The parsed text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: brackets nested too deeply
        return None


def _field_error(error: ValidationError) -> FieldError:
    """The first fault, as an error for the client."""
    faults = error.errors(include_url=False, include_context=False)
    # For a wrong strategy object, pydantic's first fault is that it is not "auto". Skip that one.
    fault = faults[-1] if faults[0]["loc"][0] == _STRATEGY else faults[0]
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        known_elsewhere = of_field(name)
        words = f"unknown field {name[:80]!r}" + (f": {known_elsewhere}" if known_elsewhere else "")
        return FieldError(words, name[:80], "unknown_parameter")
    if fault["type"] == "missing" and len(fault["loc"]) == 1:
        return FieldError(f"{name} must be given", name, "missing_required_parameter")
    if name == "response_format" and fault["input"] == "diarized_json":
        return FieldError(
            "response_format=diarized_json is not supported: speakers are not told apart",
            name,
            "unsupported",
        )
    if name == "beam_size":  # pydantic names one of the two kinds that it may be
        return FieldError(f"invalid beam_size: give 1 to {MAX_TEXTS}, or auto", name)
    keys = "".join(f"[{key}]" for key in fault["loc"][1:] if key != ServerVad.__name__)
    return FieldError(f"invalid {name}{keys}: {fault['msg']}", name)
