"""Everything the deployments raise on purpose. `serve` maps these classes to HTTP statuses, once.

    DeploymentError
    └── AudioError                   the caller's audio cannot be used
        ├── AudioNotFoundError       no such file, a folder, or no permission to read it
        ├── NotAudioError            no audio in it, or a format that is not accepted
        ├── EmptyAudioError          0 bytes
        ├── AudioTooShortError       less audio than the limits ask for
        ├── TruncatedAudioError      its header promises more than there is (raised last)
        ├── AudioTooLongError        more audio, or more bytes, than the limits allow
        └── AudioDecodeTimeoutError  decoding stood still, or took too long in all

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
    """The audio stops before the end that its header promises.

    Raised after all that is there has been yielded. `declared_s` is None where the header gives
    no length that can be put in seconds.
    """

    def __init__(self, reason: str, declared_s: float | None, decoded_s: float) -> None:
        super().__init__(reason)
        self.declared_s = declared_s
        self.decoded_s = decoded_s

    def __reduce__(
        self,
    ) -> tuple[Callable[..., "TruncatedAudioError"], tuple[str, float | None, float]]:
        # BaseException would rebuild it from the message alone, and fail at the receiver.
        return type(self), (self.reason, self.declared_s, self.decoded_s)


class AudioTooLongError(AudioError):
    """More seconds or bytes than the limits allow."""


class AudioDecodeTimeoutError(AudioError):
    """The decoder made no progress, or used up its time."""
