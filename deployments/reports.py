"""What ingresses and replicas tell the board every second, and what an ingress hears back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.fleet import MEAN_CHUNK_S, TierState


@dataclass(frozen=True, slots=True)
class IngressReport:
    """Of one ingress.

    Attributes:
        queued_s: audio sent to each tier or held for it, and not done, but for batch priority's.
        batch_s: the same of batch priority.
        arrived_s: audio that came since the last report, by the tiers that can do it, the cheapest
            first; without that of batch priority.
        n_chunks, chunks_s: chunks that came since then, and their audio.
    """

    queued_s: Mapping[str, float] = field(default_factory=dict)
    batch_s: Mapping[str, float] = field(default_factory=dict)
    arrived_s: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    n_chunks: int = 0
    chunks_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """Of one replica.

    Attributes:
        rtfx: seconds of audio a second that it gets done when all its slots are in use; None: that
            was not seen yet.
        n_running, n_waiting: chunks in slots, and chunks that wait for one.
    """

    rtfx: float | None = None
    n_running: int = 0
    n_waiting: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tiers as the board knows them.

    Attributes:
        n_ingresses: that share them.
        chunk_s: audio of a chunk, on average.
        settled: whether all replicas had the time to report.
    """

    tiers: tuple[TierState, ...]
    n_ingresses: int = 1
    chunk_s: float = MEAN_CHUNK_S
    settled: bool = True
