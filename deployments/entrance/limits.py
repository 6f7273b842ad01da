"""Bounds of one ingress."""

from dataclasses import dataclass, field

from deployments.audio.reading import AudioLimits


@dataclass(frozen=True, slots=True)
class IngressLimits:
    """Bounds of one ingress.

    Args:
        audio: of each file.
        max_chunks_in_flight: of one request.
        max_requests: at once.
        max_queued_audio_s: accepted and not transcribed yet, over all requests.
        deadline_s: of a request.
    """

    audio: AudioLimits = field(default_factory=AudioLimits)
    max_chunks_in_flight: int = 64
    max_requests: int = 256
    max_queued_audio_s: float = 24 * 3600.0
    deadline_s: float = 3600.0
