"""Options of a live session."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from deployments.errors import OptionError
from deployments.fleet import Priority
from deployments.live.formats import AudioFormat, Encoding
from deployments.options import TranscribeOptions, this_process
from engine import DecodingOptions

PolicyName = Literal["align_att", "local_agreement"]
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """How the ends of turns are heard (OpenAI's `server_vad`).

    Args:
        threshold: probability of speech from which on a frame of 32 ms counts as speech.
        prefix_padding_s: audio kept before speech.
        silence_s: silence that ends a turn.
        idle_timeout_s: silence after which the silent audio is committed; None: never.

    Raises:
        OptionError: a value is out of range.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT

    threshold: float = 0.5
    prefix_padding_s: float = 0.3
    silence_s: float = 0.5
    idle_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise OptionError(
                f"threshold must be between 0 and 1, got {self.threshold}", "threshold"
            )
        if not 0.0 <= self.prefix_padding_s <= 5.0:
            raise OptionError(
                f"prefix padding must be 0 to 5 s, got {self.prefix_padding_s:g} s",
                "prefix_padding_ms",
            )
        if not 0.1 <= self.silence_s <= 10.0:
            raise OptionError(
                f"silence duration must be 0.1 to 10 s, got {self.silence_s:g} s",
                "silence_duration_ms",
            )
        if self.idle_timeout_s is not None and not 1.0 <= self.idle_timeout_s <= 300.0:
            raise OptionError(
                f"idle timeout must be 1 to 300 s, got {self.idle_timeout_s:g} s", "idle_timeout_ms"
            )


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon text is said to be final.

    Args:
        interval_s: new audio before there is another look at a turn that goes on.
        margin_s: of `align_att`: words whose sound ends less than this before the end of the audio
            wait for more of it.
    """

    interval_s: float
    margin_s: float


PACES: dict[str, Pace] = {
    "minimal": Pace(0.3, 0.25),
    "low": Pace(0.4, 0.4),
    "medium": Pace(0.6, 0.6),
    "high": Pace(1.0, 1.0),
    "xhigh": Pace(2.0, 2.0),
}
"""By OpenAI's name of a delay."""
DEFAULT_DELAY = "low"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a session asks for, once its model is known.

    Args:
        decoding: options of every pass: language, languages, keywords, prompt, task.
        turns: how turns end; None: the client commits them.
        policy: which words of a turn that goes on are final. `align_att` takes those to which the
            decoder did not attend near the end of the audio (arXiv:2305.11408),
            `local_agreement` those on which two looks in a row agree (arXiv:2307.14743).
        pace: how soon.
        context_characters: of the text before a turn, as many of its last characters are told to
            the model; 0: none.
        lead_s: of what was said before, the model hears so many seconds again.
    """

    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    turns: TurnOptions | None = field(default_factory=TurnOptions)
    policy: PolicyName = "align_att"
    pace: Pace = PACES[DEFAULT_DELAY]
    context_characters: int = 0
    lead_s: float = 6.0

    def __post_init__(self) -> None:
        if self.policy not in get_args(PolicyName):
            names = ", ".join(get_args(PolicyName))
            raise OptionError(f"policy must be one of {names}, got {self.policy!r}", "policy")


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What a caller asks for in a live session.

    Args:
        model: a tier, an alias, or `auto`: the tier that suits when the session begins.
        task: `transcribe`, or `translate` to English.
        language, languages, prompt, keywords, keyword_boost: as in `TranscribeOptions`. By default
            the language is detected in the first speech.
        encoding, rate: how the audio's samples are written, and how many a second.
        turns: how the ends of turns are heard; None: the caller commits them.
        policy: which words of a turn that goes on are final, see `SessionOptions`.
        delay: one of `PACES`: how soon words are told. Later ones are surer.
        context_characters: of the text before a turn that are told to the model, 0 to 1000.
        caller: Ray worker ID of the process that waits for the text, as in `TranscribeOptions`.

    Raises:
        OptionError: a value is invalid.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT

    model: str = "whisper-1"
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str | None = None
    keywords: tuple[str, ...] = ()
    keyword_boost: float = 1.0
    encoding: Encoding = "pcm16"
    rate: int = 24_000
    turns: TurnOptions | None = field(default_factory=TurnOptions)
    policy: PolicyName = "align_att"
    delay: str = DEFAULT_DELAY
    context_characters: int = 0
    caller: str | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Callable[..., "LiveOptions"], tuple[dict[str, Any]]]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return _unpickled, (values | {"caller": this_process()},)

    def __post_init__(self) -> None:
        if self.delay not in PACES:
            raise OptionError(f"delay must be one of {', '.join(PACES)}", "delay")
        if not 0 <= self.context_characters <= 1_000:
            raise OptionError("context_characters must be 0 to 1000", "context_characters")
        self.transcribe_options()
        self.audio_format()

    def audio_format(self) -> AudioFormat:
        """How the audio is written.

        Raises:
            OptionError: there is no such format.
        """
        try:
            return AudioFormat(self.encoding, self.rate)
        except ValueError as error:
            raise OptionError(str(error), "rate") from error

    def transcribe_options(self) -> TranscribeOptions:
        """The same as for a file, as far as files have it."""
        return TranscribeOptions(
            model=self.model,
            task=self.task,
            language=self.language,
            languages=self.languages,
            prompt=self.prompt,
            keywords=self.keywords,
            keyword_boost=self.keyword_boost,
            beam_size=1,
            priority=Priority.REALTIME,
            caller=self.caller,
        )

    def session_options(self, decoding: DecodingOptions) -> SessionOptions:
        """
        Args:
            decoding: what `transcribe_options` mean for the session's model.
        """
        return SessionOptions(
            decoding, self.turns, self.policy, PACES[self.delay], self.context_characters
        )


def _unpickled(values: dict[str, Any]) -> LiveOptions:
    return LiveOptions(**values)
