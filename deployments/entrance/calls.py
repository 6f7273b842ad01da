"""Calls over handles: the arguments that a Ray job may pass, and answers in types that it can read.

A caller that passes options as a mapping need not have this package installed: it gets its answers
and errors in Python's built-in types.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from ray.exceptions import RayTaskError

from deployments.audio.reading import Samples, Source
from deployments.entrance.accounting import outcome_of
from deployments.errors import (
    AudioError,
    DeadlineError,
    NotAudioError,
    OptionError,
    UnknownModelError,
)
from deployments.messages import Transcript, TranscriptSegment
from deployments.options import TranscribeOptions
from engine import RequestError

Audio = Source | np.ndarray[Any, Any]
Options = TranscribeOptions | Mapping[str, Any] | None

_Options = TypeVar("_Options")
_OPTIONS = TypeAdapter(TranscribeOptions)
_PLAIN: tuple[tuple[type[Exception], type[Exception]], ...] = (
    (DeadlineError, TimeoutError),
    (AudioError, ValueError),
    (OptionError, ValueError),
    (UnknownModelError, ValueError),
    (RequestError, ValueError),
)
"""Built-in exception for each of our errors. All other errors become RuntimeError."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The types of a call's answers.

    Attributes:
        plain: whether to answer with dicts and built-in exceptions instead of this package's types.
    """

    plain: bool

    def of(self, result: Transcript | TranscriptSegment) -> Any:
        return asdict(result) if self.plain else result

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert errors raised in this context to types that the caller can read."""
        try:
            yield
        except Exception as error:  # border of the process: convert any error
            if not self.plain:
                raise
            raise plain_error(error) from None


def answers_to(options: object) -> Answers:
    return Answers(not isinstance(options, TranscribeOptions | None))


def read_options(options: object) -> TranscribeOptions:
    """Parse a call's options.

    Raises:
        OptionError: the options are invalid.
    """
    if isinstance(options, Mapping) and "task" in options:
        # Checked here, since the engine's type allows more tasks.
        TranscribeOptions(task=options["task"])
    return parse_options(options, TranscribeOptions, _OPTIONS)


def parse_options(
    options: object, kind: type[_Options], adapter: TypeAdapter[_Options]
) -> _Options:
    """A call's options of one kind: as they are, from a mapping, or the default ones for None.

    Args:
        kind: a dataclass.
        adapter: reads it from a mapping.

    Raises:
        OptionError: the options are invalid.
    """
    if options is None:
        return kind()
    if isinstance(options, kind):
        return options
    if not isinstance(options, Mapping):
        what = type(options).__name__
        raise OptionError(f"options must be {kind.__name__} or a mapping, not {what}", "options")
    try:
        return adapter.validate_python(dict(options))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "unexpected_keyword_argument":
            raise OptionError(f"unknown option {path!r}", path) from None
        said = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise OptionError(f"invalid {path}: {said}, got {fault['input']!r}", path) from None


def read_source(audio: Audio, sample_rate: int) -> Source:
    """Convert a call's audio to a source.

    Raises:
        NotAudioError: the argument's type cannot contain audio.
    """
    if isinstance(audio, np.ndarray):
        return Samples(audio, sample_rate)
    if isinstance(audio, bytearray | memoryview):
        return bytes(audio)
    if isinstance(audio, bytes | str | PathLike | Samples):
        return audio
    raise NotAudioError(f"audio must be bytes, a path or an array, not {type(audio).__name__}")


def plain_error(error: Exception) -> Exception:
    """Convert an error to a built-in exception with the attribute `code` (the outcome in the log)
    and the fields of the original error."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause  # the message of Ray's error contains the replica's stack
    kind = next((plain for kind, plain in _PLAIN if isinstance(error, kind)), RuntimeError)
    code = outcome_of(error)
    said = str(error) if code != "fault" else f"{type(error).__name__}: {error}"
    plain = kind(said)
    vars(plain).update({"code": code}, **(vars(error) if code != "fault" else {}))
    return plain
