"""Limits of one ingress."""

from dataclasses import dataclass, field

from deployments.audio.reading import AudioLimits


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """Limits of the live sessions of one ingress.

    Args:
        max_sessions: at once.
        max_session_s: seconds that a session may last.
        idle_s: seconds without anything from the client after which a session ends.
    """

    max_sessions: int = 64
    max_session_s: float = 6 * 3600.0
    idle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class IngressLimits:
    """Limits of one ingress.

    Args:
        audio: limits of each file.
        max_chunks_in_flight: chunks of one request that are in replicas at once.
        max_requests: requests at once.
        max_queued_audio_s: seconds of audio accepted and not transcribed yet, over all requests.
        deadline_s: seconds that a request may take.
        live: limits of live sessions.
    """

    audio: AudioLimits = field(default_factory=AudioLimits)
    max_chunks_in_flight: int = 64
    max_requests: int = 256
    max_queued_audio_s: float = 24 * 3600.0
    deadline_s: float = 3600.0
    live: LiveLimits = field(default_factory=LiveLimits)
