"""The reports that ingresses and replicas send to the board every second, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.fleet import MEAN_CHUNK_S, Priority, TierState


@dataclass(frozen=True, slots=True)
class RunReport:
    """A request under way.

    Attributes:
        id: of its run; nothing of what the caller sent.
        model: that was asked for; `tier` is what it stands for, or `auto`.
        began: seconds since 1970.
        audio_s: length of the audio; None until it is known.
        done_s: audio of which the text is final.
    """

    id: str
    model: str
    tier: str
    task: str
    priority: Priority
    began: float
    audio_s: float | None
    done_s: float


@dataclass(frozen=True, slots=True)
class CanaryCount:
    """What became of a canary (`routing.canary`).

    Attributes:
        of: the tier or adapter that was asked for; `to` is the one that is tried.
        shadow: whether the texts were only compared.
        n_requests: requests that met it.
        n_chunks: chunks whose texts were compared, with `n_words` in the texts of `of`.
        n_changed: the least number of words to change, leave out or put in, from these texts to
            those of `to`.
        n_failed: chunks that `to` did not decode.
        n_skipped: chunks that were not compared, because too many were under way.
    """

    of: str
    to: str
    shadow: bool
    n_requests: int = 0
    n_chunks: int = 0
    n_words: int = 0
    n_changed: int = 0
    n_failed: int = 0
    n_skipped: int = 0

    def __add__(self, other: "CanaryCount") -> "CanaryCount":
        """The sum of two counts of the same canary."""
        return CanaryCount(
            self.of,
            self.to,
            self.shadow,
            self.n_requests + other.n_requests,
            self.n_chunks + other.n_chunks,
            self.n_words + other.n_words,
            self.n_changed + other.n_changed,
            self.n_failed + other.n_failed,
            self.n_skipped + other.n_skipped,
        )


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
        done_s: audio that was transcribed since the last report, by tier.
        outcomes: requests that ended since the last report, by outcome: `ok` or the kind of error.
        n_runs: requests under way.
        runs: the oldest of them.
        canaries: what was counted of canaries since the last report.
    """

    queued_s: Mapping[str, float] = field(default_factory=dict)
    batch_s: Mapping[str, float] = field(default_factory=dict)
    arrived_s: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    n_chunks: int = 0
    chunks_s: float = 0.0
    done_s: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    n_runs: int = 0
    runs: tuple[RunReport, ...] = ()
    canaries: tuple[CanaryCount, ...] = ()


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
        stopped: runs that somebody wants to end.
    """

    tiers: tuple[TierState, ...]
    n_ingresses: int = 1
    chunk_s: float = MEAN_CHUNK_S
    settled: bool = True
    stopped: tuple[str, ...] = ()
