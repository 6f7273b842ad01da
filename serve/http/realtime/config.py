"""The session object of OpenAI's Realtime API: defaults, updates, and the options it stands for.

Updates are merged into the object: what is not named stays, and null clears. What is unknown or not
supported is refused by its path; the object then stays as it was.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.live.formats import MAX_RATE, MIN_RATE, Encoding
from deployments.live.options import (
    DEFAULT_DELAY,
    PACES,
    LiveOptions,
    PolicyName,
    TurnOptions,
)
from engine.request import MAX_BOOST
from serve.http.realtime.errors import RealtimeError

LOGPROBS = "item.input_audio_transcription.logprobs"
COMMITTED_MODELS = frozenset({"gpt-live-transcribe", "gpt-realtime-whisper"})
"""Models whose turns are ended by the client, unless it asks for something else."""
_ENCODINGS: dict[str, Encoding] = {
    "audio/pcm": "pcm16",
    "audio/pcmu": "mulaw",
    "audio/pcma": "alaw",
}
_BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_G711_RATE = 8_000
Delay = Literal["minimal", "low", "medium", "high", "xhigh"]
assert set(PACES) == set(Delay.__args__)  # type: ignore[attr-defined]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Format(_Part):
    """Format of the audio."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    """16-bit little-endian PCM, or G.711 in one of its laws at 8 kHz; one channel."""
    rate: Annotated[int, Field(ge=MIN_RATE, le=MAX_RATE)] | None = None
    """Samples a second of PCM; by default 24000, OpenAI's only rate."""


class TranscriptionPart(_Part):
    """What hears the audio."""

    model: Annotated[str, Field(max_length=256)] = "whisper-1"
    """A tier, an alias, or `auto`."""
    language: str | None = None
    """Language of the speech; by default it is detected from the first speech."""
    languages: list[str] | None = None
    """Languages among which the detection chooses."""
    prompt: str | None = None
    """Text that the transcript continues."""
    keywords: list[str] | None = None
    """Words to expect."""
    keyword_boost: Annotated[float, Field(ge=0, le=MAX_BOOST, allow_inf_nan=False)] = 1.0
    """How much keywords are favoured. An addition to OpenAI's fields, as the next two."""
    policy: PolicyName = LiveOptions().policy
    """Which words of a turn that goes on are final: `align_att` or `local_agreement`."""
    context_characters: Annotated[int, Field(ge=0, le=1000)] = LiveOptions().context_characters
    """Of the text before a turn, how much is told to the model."""
    delay: Delay | None = None
    """How soon words are told; later ones are surer. By default `low`."""


class ServerVadPart(_Part):
    """How the ends of turns are heard."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(gt=0, lt=1)] = TurnOptions().threshold
    """A frame with at least this probability of speech counts as speech."""
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5_000)] = 300
    """Milliseconds of audio kept before speech."""
    silence_duration_ms: Annotated[int, Field(ge=100, le=10_000)] = 500
    """A turn ends with a silence of so many milliseconds."""
    idle_timeout_ms: Annotated[int, Field(ge=1_000, le=300_000)] | None = None
    """After so many milliseconds of silence the silent audio is committed."""
    create_response: bool | None = None
    """Without effect: there are no responses in a transcription session."""
    interrupt_response: bool | None = None
    """Likewise."""


class InputPart(_Part):
    """The audio that comes in."""

    format: Format = Format()
    noise_reduction: None = None
    """Not supported; null alone."""
    transcription: TranscriptionPart = TranscriptionPart()
    turn_detection: ServerVadPart | None = ServerVadPart()
    """null: the client commits turns."""


class AudioPart(_Part):
    input: InputPart = InputPart()


class SessionPart(_Part):
    """A session's object."""

    type: Literal["transcription"] = "transcription"
    audio: AudioPart = AudioPart()
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None


class SessionConfig:
    """The session object that is in force.

    Args:
        model: the model if the client names none.
    """

    def __init__(self, model: str = "whisper-1") -> None:
        self._object: dict[str, Any] = SessionPart().model_dump()
        # Whether the client said how turns end.
        self._knows_turns = False
        if model != self.model:
            self._take({"audio": {"input": {"transcription": {"model": model}}}})

    @property
    def model(self) -> str:
        return str(self._input["transcription"]["model"])

    @property
    def wants_logprobs(self) -> bool:
        return bool(self._object["include"])

    def merged(self, update: object, param: str = "session") -> "SessionConfig":
        """The object with a client's update.

        Raises:
            RealtimeError: the update is wrong.
        """
        if not isinstance(update, Mapping):
            raise RealtimeError(f"{param} must be an object", "invalid_type", param)
        changed = SessionConfig.__new__(SessionConfig)
        changed._object = deepcopy(self._object)
        changed._knows_turns = self._knows_turns
        changed._take(update, param)
        return changed

    def options(self) -> LiveOptions:
        """What the object means.

        Raises:
            OptionError: it cannot be.
        """
        part = SessionPart.model_validate(self._object).audio.input
        heard, turns = part.transcription, part.turn_detection
        is_pcm = part.format.type == "audio/pcm"
        return LiveOptions(
            model=heard.model,
            language=heard.language or None,
            languages=tuple(heard.languages or ()),
            prompt=heard.prompt or None,
            keywords=tuple(heard.keywords or ()),
            keyword_boost=heard.keyword_boost,
            encoding=_ENCODINGS[part.format.type],
            rate=(part.format.rate or LiveOptions().rate) if is_pcm else _G711_RATE,
            turns=None
            if turns is None
            else TurnOptions(
                turns.threshold,
                turns.prefix_padding_ms / 1000,
                turns.silence_duration_ms / 1000,
                None if turns.idle_timeout_ms is None else turns.idle_timeout_ms / 1000,
            ),
            policy=heard.policy,
            delay=heard.delay or DEFAULT_DELAY,
            context_characters=heard.context_characters,
        )

    def rendered(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """The object as clients get it."""
        shown = deepcopy(self._object)
        format = shown["audio"]["input"]["format"]
        if format["type"] == "audio/pcm":
            format["rate"] = format["rate"] or LiveOptions().rate
        else:
            del format["rate"]
        head = {"id": session_id, "object": "realtime.transcription_session"}
        return {**head, **shown, "expires_at": expires_at}

    def rendered_beta(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """The object in the shape that the API had before its general availability."""
        names = {name: old for old, name in _BETA_FORMATS.items()}
        heard = self._input["transcription"]
        return {
            "id": session_id,
            "object": "realtime.transcription_session",
            "expires_at": expires_at,
            "input_audio_format": names[self._input["format"]["type"]],
            "input_audio_transcription": {k: heard[k] for k in ("model", "language", "prompt")},
            "input_audio_noise_reduction": None,
            "turn_detection": self._input["turn_detection"],
            "include": self._object["include"],
        }

    @property
    def _input(self) -> dict[str, Any]:
        part: dict[str, Any] = self._object["audio"]["input"]
        return part

    def _take(self, update: Mapping[str, Any], param: str = "session") -> None:
        asked = {k: v for k, v in update.items() if k not in ("id", "object", "expires_at")}
        told = _input_of(asked)
        _refuse_what_is_missing(told, param)
        merged = _merge(self._object, asked)
        format = told.get("format")
        if (
            isinstance(format, Mapping)
            and "rate" not in format
            and isinstance(merged["audio"], dict)
        ):
            merged["audio"]["input"]["format"]["rate"] = None  # that of another type
        self._knows_turns = self._knows_turns or "turn_detection" in told
        named = told.get("transcription")
        if isinstance(named, Mapping) and "model" in named and not self._knows_turns:
            model = named["model"]  # of any type: what is no name is refused below
            commits = isinstance(model, str) and model in COMMITTED_MODELS
            default = None if commits else ServerVadPart().model_dump()
            merged["audio"]["input"]["turn_detection"] = default
        try:
            self._object = SessionPart.model_validate(merged).model_dump()
        except ValidationError as error:
            raise _error(error, param) from None


def from_beta(update: object) -> dict[str, Any]:
    """A session object of the API before its general availability, in the shape of today.

    Raises:
        RealtimeError: it is not one.
    """
    if not isinstance(update, Mapping):
        raise RealtimeError("session must be an object", "invalid_type", "session")
    part: dict[str, Any] = {}
    found: dict[str, Any] = {"audio": {"input": part}}
    for name, value in update.items():
        if name == "input_audio_format":
            if not isinstance(value, str) or value not in _BETA_FORMATS:
                known = ", ".join(_BETA_FORMATS)
                raise RealtimeError(f"must be one of {known}", "invalid_value", f"session.{name}")
            part["format"] = {"type": _BETA_FORMATS[value]}
        elif name == "input_audio_transcription":
            part["transcription"] = value
        elif name == "input_audio_noise_reduction":
            part["noise_reduction"] = value
        elif name == "turn_detection":
            part["turn_detection"] = value
        elif name not in ("modalities", "client_secret"):
            found[name] = value
    return found


def _input_of(update: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part `audio.input` of an update; empty if there is none."""
    audio = update.get("audio")
    part = audio.get("input") if isinstance(audio, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _refuse_what_is_missing(part: Mapping[str, Any], param: str) -> None:
    path = f"{param}.audio.input"
    if part.get("noise_reduction") is not None:
        raise RealtimeError(
            "noise_reduction is not supported", "unsupported", f"{path}.noise_reduction"
        )
    turns = part.get("turn_detection")
    if isinstance(turns, Mapping) and turns.get("type") == "semantic_vad":
        raise RealtimeError(
            "semantic_vad is not supported: use server_vad, or null and commit",
            "unsupported",
            f"{path}.turn_detection.type",
        )


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(deepcopy(old))
    for name, value in new.items():
        before = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[name] = _merge(before, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return merged


def _error(error: ValidationError, param: str) -> RealtimeError:
    fault = error.errors(include_url=False, include_context=False)[0]
    path = ".".join([param, *map(str, fault["loc"])])
    if fault["type"] == "extra_forbidden":
        return RealtimeError(f"unknown parameter: {path!r}", "unknown_parameter", path)
    return RealtimeError(f"invalid {path}: {fault['msg']}", "invalid_value", path)
