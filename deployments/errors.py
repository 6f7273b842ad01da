"""All errors that the deployments raise on purpose. `serve` maps these classes to HTTP statuses.

    DeploymentError
    ├── AudioError                   the caller's audio cannot be used
    │   ├── AudioNotFoundError       no such file, a folder, or no permission to read it
    │   ├── NotAudioError            no audio in it, or a format that is not accepted
    │   ├── EmptyAudioError          0 bytes
    │   ├── AudioTooShortError       less audio than the limits require
    │   ├── TruncatedAudioError      the file ends before any audio that can be decoded
    │   ├── AudioTooLongError        more audio, or more bytes, than the limits allow
    │   └── AudioDecodeTimeoutError  decoding made no progress, or took too long in total
    ├── OptionError                  an option is invalid, or the model does not support it
    │   └── NoTierError              no tier supports the task in the language
    ├── UnknownModelError            no tier or alias has the name
    ├── OverloadedError              more is queued than the limits allow
    ├── TierUnavailableError         the tier's replicas cannot be started
    ├── DeadlineError                the request exceeded its deadline
    ├── StoppedError                 an operator stopped the request
    ├── ChunkFailedError             a chunk killed as many replicas as it is allowed to
    ├── EngineStoppedError           the replica's engine failed, hangs or was closed
    └── CatalogueError               the GPU is not in the catalogue, or the catalogue is malformed

These errors cross process boundaries, so each one pickles with its fields.
"""

from collections.abc import Callable


class DeploymentError(Exception):
    """Base class of this package's errors. An instance of this class itself, not of a subclass, is
    the server's fault, not the caller's."""


class AudioError(DeploymentError):
    """The audio cannot be used. `reason` is one line that may be shown to the caller."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)


class AudioNotFoundError(AudioError):
    """There is no readable regular file at the path."""


class NotAudioError(AudioError):
    """The bytes are not audio in an accepted format, or they contain no audio stream."""


class EmptyAudioError(AudioError):
    """The source has no bytes at all."""


class AudioTooShortError(AudioError):
    """The audio is shorter in total than the minimum."""


class TruncatedAudioError(AudioError):
    """The file was cut off before any audio that can be decoded. A file that still contains some
    decodable audio is read instead, and a warning says what is missing."""


class AudioTooLongError(AudioError):
    """The audio has more seconds or bytes than the limits allow."""


class AudioDecodeTimeoutError(AudioError):
    """The decoder made no progress, or used up its time."""


class OptionError(DeploymentError):
    """An option of the request is invalid, or its model does not support the option."""

    def __init__(self, reason: str, option: str) -> None:
        super().__init__(reason)
        self.option = option

    def __reduce__(self) -> tuple[Callable[..., "OptionError"], tuple[str, str]]:
        return type(self), (str(self), self.option)


class NoTierError(OptionError):
    """The caller leaves the choice of tier to the cluster, and no tier can do what is asked."""

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
    """More is queued than the limits allow. The caller may try again after `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Callable[..., "OverloadedError"], tuple[str, float]]:
        return type(self), (str(self), self.retry_after_s)


class TierUnavailableError(DeploymentError):
    """The tier's replicas cannot be started, so the tier can decode nothing now."""


class DeadlineError(DeploymentError):
    """The request did not finish before its deadline. Its running work was stopped."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"the request took longer than {deadline_s:g} s")
        self.deadline_s = deadline_s

    def __reduce__(self) -> tuple[Callable[..., "DeadlineError"], tuple[float]]:
        return type(self), (self.deadline_s,)


class StoppedError(DeploymentError):
    """An operator of the cluster stopped the request."""


class ChunkFailedError(DeploymentError):
    """As many replicas as allowed died while they decoded this part of the file.

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
    """The engine of a replica failed, hangs or was closed. The replica must be replaced."""


class CatalogueError(DeploymentError):
    """The GPU catalogue has no GPU of that name, or its file is malformed."""
