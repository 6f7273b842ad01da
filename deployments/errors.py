"""Everything the deployments raise on purpose. `serve` maps these classes to HTTP statuses, once.

    DeploymentError
    ├── AudioError                   the caller's audio cannot be used
    │   ├── AudioNotFoundError       no such file, a folder, or no permission to read it
    │   ├── NotAudioError            no audio in it, or a format that is not accepted
    │   ├── EmptyAudioError          0 bytes
    │   ├── AudioTooShortError       less audio than the limits ask for
    │   ├── TruncatedAudioError      cut before anything that can be decoded
    │   ├── AudioTooLongError        more audio, or more bytes, than the limits allow
    │   └── AudioDecodeTimeoutError  decoding stood still, or took too long in all
    ├── OptionError                  an option that cannot be, or that the model does not have
    │   └── NoTierError              no tier does that task in that language
    ├── UnknownModelError            no tier or alias of that name
    ├── OverloadedError              more is queued than the limits allow
    ├── TierUnavailableError         the tier's replicas cannot be started
    ├── DeadlineError                the request took longer than it may
    ├── ChunkFailedError             a chunk that replicas died of, as often as one may
    ├── EngineStoppedError           the replica's engine broke, hangs or was closed
    └── CatalogueError               the catalogue of GPUs lacks that one, or is malformed

They cross processes, so each one pickles with its fields.
"""

from collections.abc import Callable


class DeploymentError(Exception):
    """Base of this package's errors. One raised as such is the server's fault, not the caller's."""


class AudioError(DeploymentError):
    """The audio cannot be used. `reason` is one line, fit to be shown to the caller."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)


class AudioNotFoundError(AudioError):
    """There is no readable regular file at the path."""


class NotAudioError(AudioError):
    """The bytes are not audio in an accepted format, or hold no audio stream."""


class EmptyAudioError(AudioError):
    """The source has no bytes at all."""


class AudioTooShortError(AudioError):
    """All of the audio together is shorter than the minimum."""


class TruncatedAudioError(AudioError):
    """The file was cut before anything that can be decoded. Where there is something, it is read,
    and a warning says what is missing."""


class AudioTooLongError(AudioError):
    """More seconds or bytes than the limits allow."""


class AudioDecodeTimeoutError(AudioError):
    """The decoder made no progress, or used up its time."""


class OptionError(DeploymentError):
    """The request asks for what cannot be, or what its model does not have."""

    def __init__(self, reason: str, option: str) -> None:
        super().__init__(reason)
        self.option = option

    def __reduce__(self) -> tuple[Callable[..., "OptionError"], tuple[str, str]]:
        return type(self), (str(self), self.option)


class NoTierError(OptionError):
    """Where the caller leaves the choice, there is no tier that can do what is asked."""

    def __init__(self, reason: str, option: str = "model") -> None:
        super().__init__(reason, option)


class UnknownModelError(DeploymentError):
    """No tier or alias has that name."""

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model!r} does not exist")
        self.model = model

    def __reduce__(self) -> tuple[Callable[..., "UnknownModelError"], tuple[str]]:
        return type(self), (self.model,)


class OverloadedError(DeploymentError):
    """More is queued than the limits allow; it may be less in `retry_after_s` seconds."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Callable[..., "OverloadedError"], tuple[str, float]]:
        return type(self), (str(self), self.retry_after_s)


class TierUnavailableError(DeploymentError):
    """The tier's replicas cannot be started, so nothing can be decoded there now."""


class DeadlineError(DeploymentError):
    """The request was not finished in time; what ran of it was stopped."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"the request took longer than {deadline_s:g} s")
        self.deadline_s = deadline_s

    def __reduce__(self) -> tuple[Callable[..., "DeadlineError"], tuple[float]]:
        return type(self), (self.deadline_s,)


class ChunkFailedError(DeploymentError):
    """Replicas died while they decoded this part of the file, as often as they may.

    `start_s` and `end_s` are on the file's clock.
    """

    def __init__(self, start_s: float, end_s: float, attempts: int) -> None:
        super().__init__(
            f"the audio from {start_s:.2f} to {end_s:.2f} s could not be decoded: "
            f"{attempts} replicas failed at it"
        )
        self.start_s, self.end_s, self.attempts = start_s, end_s, attempts

    def __reduce__(self) -> tuple[Callable[..., "ChunkFailedError"], tuple[float, float, int]]:
        return type(self), (self.start_s, self.end_s, self.attempts)


class EngineStoppedError(DeploymentError):
    """The engine of a replica broke, hangs or was closed: the replica has to be replaced."""


class CatalogueError(DeploymentError):
    """The catalogue of GPUs has none of that name, or its file cannot be used."""
