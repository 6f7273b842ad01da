"""What a reader found missing after the last sample."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Truncation:
    """The audio stops too early.

    Attributes:
        reason: one sentence, fit to be shown to the caller.
        declared_s: the length that the header promises; None if it promises none that can be
            expressed in seconds.
    """

    reason: str
    declared_s: float | None = None


def promised(decoded_s: float, declared_s: float) -> Truncation:
    """The truncation of a file whose header promises `declared_s`."""
    return Truncation(
        f"truncated: the audio stops at {decoded_s:.2f} s, its header promises {declared_s:.2f} s",
        declared_s,
    )
