"""What the address of `/v1/listen` asks for.

What changes the text or the answer and is not there is refused by name. What only asks for a
formatting that Whisper's text has anyhow, or is about Deepgram's own business, is taken and does
nothing.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from deployments.live.formats import MAX_RATE, MIN_RATE, Encoding
from deployments.live.options import LiveOptions, TurnOptions
from engine.request import MAX_BOOST
from serve.http.fields import FieldError

MULTI = "multi"
"""A language that is to be detected, and told with each result."""
_DEFAULT_MODEL = "whisper-1"
_DEEPGRAMS_MODELS = re.compile(r"(nova|enhanced|base|whisper|flux)(-\w+)*")
_ENCODINGS: dict[str, Encoding] = {"linear16": "pcm16", "mulaw": "mulaw", "alaw": "alaw"}
_G711_RATE = 8_000
_SHORTEST_SILENCE_S = 0.1
_LISTS = ("keywords", "keyterm", "extra", "tag")
_MISSING = {
    "callback": "answers come over the connection",
    "callback_method": "answers come over the connection",
    "detect_entities": "there is no such model here",
    "detect_topics": "there is no such model here",
    "diarize": "speakers are not told apart",
    "diarize_model": "speakers are not told apart",
    "dictation": "spoken commands are not carried out",
    "intents": "there is no such model here",
    "language_hint": "give languages over OpenAI's API",
    "measurements": "measurements stay as they are written",
    "multichannel": "channels are heard as one",
    "paragraphs": "there are utterances",
    "profanity_filter": "words are not masked",
    "redact": "words are not masked",
    "replace": "words are not replaced",
    "search": "search the text",
    "sentiment": "there is no such model here",
    "summarize": "there is no such model here",
    "topics": "there is no such model here",
}
_OFF = ("", "false", "0", "none")


AnyQuery = TypeVar("AnyQuery", bound="Query")


def _whether_or_ms(value: Any) -> Any:
    """`true`, `false`, or milliseconds."""
    return {"true": True, "false": False}.get(str(value).lower(), value)


class Query(BaseModel):
    """Parameters that live sessions and files share."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=256)] = _DEFAULT_MODEL
    language: Annotated[str, Field(max_length=64)] | None = None
    keywords: list[str] = []
    keyterm: list[str] = []
    punctuate: bool = True
    smart_format: bool = True
    numerals: bool = False
    filler_words: bool = False
    mip_opt_out: bool = False
    extra: list[str] = []
    tag: list[str] = []
    version: str | None = None
    tier: str | None = None

    @property
    def is_multi(self) -> bool:
        """Whether results name the language."""
        return self.language == MULTI

    @property
    def spoken(self) -> str | None:
        """The language, None: it is detected."""
        return None if self.is_multi else self.language or None

    def words_to_expect(self) -> tuple[str, ...]:
        """Keywords of both kinds, with their weights."""
        return (*self.keyterm, *map(_weighted, self.keywords))


class LiveQuery(Query):
    """Parameters of a live session."""

    encoding: Literal["linear16", "mulaw", "alaw"] | None = None
    sample_rate: Annotated[int, Field(ge=MIN_RATE, le=MAX_RATE)] | None = None
    channels: Literal[1] = 1
    interim_results: bool = False
    endpointing: Annotated[
        bool | Annotated[int, Field(ge=0, le=10_000)], BeforeValidator(_whether_or_ms)
    ] = True
    utterance_end_ms: Annotated[int, Field(ge=1_000, le=60_000)] | None = None
    vad_events: bool = False
    no_delay: bool = False

    def options(self, knows: Callable[[str], bool]) -> LiveOptions:
        """What the parameters mean.

        Args:
            knows: whether a model of this name is there.

        Raises:
            FieldError: audio of this kind is not read.
            OptionError: the options cannot be.
        """
        if self.encoding is None:
            raise FieldError(
                "encoding must be given, one of linear16, mulaw and alaw: live audio in "
                "containers is not read",
                "encoding",
                "missing_required_parameter",
            )
        rate = self.sample_rate or (None if self.encoding == "linear16" else _G711_RATE)
        if rate is None:
            raise FieldError(
                "sample_rate must be given", "sample_rate", "missing_required_parameter"
            )
        return LiveOptions(
            model=known_model(self.model, knows),
            language=self.spoken,
            keywords=self.words_to_expect(),
            encoding=_ENCODINGS[self.encoding],
            rate=rate,
            turns=self._turns(),
        )

    def _turns(self) -> TurnOptions | None:
        if self.endpointing is False:
            return None
        if self.endpointing is True:
            return TurnOptions()
        return TurnOptions(silence_s=max(self.endpointing / 1000, _SHORTEST_SILENCE_S))


class FileQuery(Query):
    """Parameters of a file."""

    detect_language: bool = False
    utterances: bool = False
    utt_split: float | None = None
    # They are read from the file.
    encoding: str | None = None
    sample_rate: int | None = None
    channels: int | None = None

    def fields(self, knows: Callable[[str], bool]) -> list[tuple[str, str]]:
        """The same as fields of OpenAI's form."""
        found = [
            ("model", known_model(self.model, knows)),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "segment"),
            ("timestamp_granularities[]", "word"),
        ]
        if self.spoken is not None and not self.detect_language:
            found.append(("language", self.spoken))
        return found + [("keywords[]", word) for word in self.words_to_expect()]


def parse_query(items: Iterable[tuple[str, str]], kind: type[AnyQuery]) -> AnyQuery:
    """
    Raises:
        FieldError: a parameter is unknown or not supported, or its value is not allowed.
    """
    values: dict[str, Any] = {}
    for name, value in items:
        if name in _MISSING:
            if value.lower() not in _OFF:
                message = f"{name} is not supported: {_MISSING[name]}"
                raise FieldError(message, name, "unsupported")
        elif name in _LISTS:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        name = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            message = f"unknown parameter: {name!r}"
            raise FieldError(message, name, "unknown_parameter") from error
        raise FieldError(f"invalid {name}: {fault['msg']}", name) from error


def known_model(name: str, knows: Callable[[str], bool]) -> str:
    """The model for a name: one of Deepgram's own that is not there stands for the default."""
    if not knows(name) and _DEEPGRAMS_MODELS.fullmatch(name):
        return _DEFAULT_MODEL
    return name


def _weighted(keyword: str) -> str:
    """A keyword with Deepgram's intensifier (`NAME:2`) as one with a weight (`NAME :2`)."""
    word, colon, intensity = keyword.rpartition(":")
    try:
        weight = float(intensity) if colon else 1.0
    except ValueError:
        return keyword
    if not word:
        return keyword
    return f"{word} :{min(max(weight, 0.0), MAX_BOOST):g}"


assert set(_ENCODINGS) == set(get_args(get_args(LiveQuery.model_fields["encoding"].annotation)[0]))
