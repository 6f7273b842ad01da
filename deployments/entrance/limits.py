"""Limits of one ingress."""

from dataclasses import dataclass, field

from deployments.audio.reading import AudioLimits


@dataclass(frozen=True, slots=True)
class IngressLimits:
    """Limits of one ingress.

    Args:
        audio: limits of each file.
        max_chunks_in_flight: chunks of one request that are in replicas at once.
        max_requests: requests at once.
        max_queued_audio_s: seconds of audio accepted and not transcribed yet, over all requests.
        deadline_s: seconds that a request may take.
    """

    audio: AudioLimits = field(default_factory=AudioLimits)
    max_chunks_in_flight: int = 64
    max_requests: int = 256
    max_queued_audio_s: float = 24 * 3600.0
    deadline_s: float = 3600.0
