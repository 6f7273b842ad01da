"""The last hour of the cluster in numbers, a sample every few seconds, in bounded memory."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.fleet import TierState

PERIOD_S = 5.0
SPAN_S = 3600.0
_N_SAMPLES = round(SPAN_S / PERIOD_S)


@dataclass(frozen=True, slots=True)
class TierSample:
    """A tier at one time.

    Attributes:
        replicas, target: that answer, and that are wanted.
        slots_in_use, slots: of all replicas.
        queued_s: audio that is accepted and not transcribed yet.
        wait_s: until a chunk that comes now gets a slot; None: nobody knows.
        rtfx: seconds of audio per second that a full replica does.
        done_s: audio that was transcribed since the sample before.
        usd: price of the replicas since the sample before.
    """

    replicas: int
    target: int
    slots_in_use: int
    slots: int
    queued_s: float
    wait_s: float | None
    rtfx: float
    done_s: float
    usd: float


_COLUMNS = tuple(TierSample.__slots__)


@dataclass(slots=True)
class _Since:
    """What was done since the last sample."""

    done_s: dict[str, float] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)


class History:
    """Samples of all tiers, and the outcomes of requests. The tiers are always the same ones."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, TierSample], Counter[str]]] = deque(
            maxlen=_N_SAMPLES
        )
        self._since = _Since()

    def hear(self, done_s: Mapping[str, float], outcomes: Mapping[str, int]) -> None:
        """Count what an ingress has done: seconds of audio by tier, ended requests by outcome."""
        for tier, seconds in done_s.items():
            self._since.done_s[tier] = self._since.done_s.get(tier, 0.0) + seconds
        self._since.outcomes.update(outcomes)

    def is_due(self, at: float) -> bool:
        """Whether the last sample is old enough for the next. `at` is in seconds since 1970."""
        return not self._samples or at - self._samples[-1][0] >= PERIOD_S

    def sample(
        self,
        at: float,
        tiers: Iterable[TierState],
        used: Mapping[str, int],
        targets: Mapping[str, int],
        chunk_s: float,
    ) -> None:
        """Take a sample.

        Args:
            at: seconds since 1970.
            used: slots in use, by tier.
            targets: replicas wanted, by tier.
            chunk_s: mean seconds of audio per chunk.
        """
        passed_s = min(at - self._samples[-1][0], SPAN_S) if self._samples else 0.0
        samples = {}
        for tier in tiers:
            name, facts = tier.facts.name, tier.facts
            wait_s = tier.wait_s(chunk_s)
            samples[name] = TierSample(
                replicas=tier.ready,
                target=targets.get(name, tier.ready),
                slots_in_use=used.get(name, 0),
                slots=facts.slots * tier.ready,
                queued_s=round(tier.queued_s + tier.batch_s, 2),
                wait_s=round(wait_s, 2) if wait_s < float("inf") else None,
                rtfx=round(tier.rtfx, 2),
                done_s=round(self._since.done_s.get(name, 0.0), 2),
                usd=round(passed_s * tier.ready * facts.usd_per_hour / 3600, 9),
            )
        self._samples.append((at, samples, self._since.outcomes))
        self._since = _Since()

    def since(self, at: float) -> dict[str, Any]:
        """The samples after a time, as columns, and the sums of the whole hour.

        Returns:
            `at`: times; `tiers`: by name, a list for each number of `TierSample`; `outcomes`: ended
            requests by outcome; `done_s` and `usd`: audio transcribed and its price.
        """
        found = [sample for sample in self._samples if sample[0] > at]
        outcomes: Counter[str] = Counter()
        for _, _, counted in self._samples:
            outcomes.update(counted)
        every = [sample for _, tiers, _ in self._samples for sample in tiers.values()]
        return {
            "period_s": PERIOD_S,
            "span_s": SPAN_S,
            "at": [round(time, 2) for time, _, _ in found],
            "tiers": {name: _columns(name, found) for name in self._tiers()},
            "outcomes": dict(outcomes.most_common()),
            "done_s": round(sum(sample.done_s for sample in every), 2),
            "usd": round(sum(sample.usd for sample in every), 6),
        }

    def _tiers(self) -> Iterable[str]:
        return self._samples[-1][1] if self._samples else ()


def _columns(
    name: str, samples: Iterable[tuple[float, dict[str, TierSample], Counter[str]]]
) -> dict[str, list[float | None]]:
    rows = [tiers[name] for _, tiers, _ in samples]
    return {column: [getattr(row, column) for row in rows] for column in _COLUMNS}
