"""The reports that ingresses and replicas send to the board every second, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.fleet import MEAN_CHUNK_S, TierState


@dataclass(frozen=True, slots=True)
class IngressReport:
    """The report of one ingress.

    Attributes:
        queued_s: unfinished audio that was sent to each tier or is held for it; batch priority
            excluded.
        batch_s: the same for batch priority.
        arrived_s: audio that arrived since the last report, by the tiers that can decode it, the
            cheapest first; batch priority excluded.
        n_chunks, chunks_s: number of chunks that arrived since the last report, and their audio.
    """

    queued_s: Mapping[str, float] = field(default_factory=dict)
    batch_s: Mapping[str, float] = field(default_factory=dict)
    arrived_s: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    n_chunks: int = 0
    chunks_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """The report of one replica.

    Attributes:
        rtfx: speed with all slots in use, in seconds of audio per second; None: not measured yet.
        n_used: number of slots that hold a text; a chunk with several texts has several slots.
        n_waiting: number of chunks that wait for a slot.
    """

    rtfx: float | None = None
    n_used: int = 0
    n_waiting: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tiers, as the board knows them.

    Attributes:
        n_ingresses: number of ingresses that share the tiers.
        chunk_s: mean seconds of audio per chunk.
        settled: whether all replicas have had time to report.
    """

    tiers: tuple[TierState, ...]
    n_ingresses: int = 1
    chunk_s: float = MEAN_CHUNK_S
    settled: bool = True
