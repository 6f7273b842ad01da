"""The board: the one place that knows all tiers. It adds up reports and decides replica counts.

Ingresses and replicas report every second, and reports that are not repeated are forgotten.
Therefore a board that was lost has complete data again after seconds. The decision is made here and
not in Serve's controller, where a policy must neither wait nor fail; `scaling_policy` passes the
numbers on to it.
"""

import asyncio
import datetime
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from deployments.fleet import MEAN_CHUNK_S, TierFacts, TierState
from deployments.reports import IngressReport, ReplicaReport, Snapshot
from deployments.routing.arrivals import ArrivalRates
from deployments.routing.autoscaling import (
    Demand,
    Plan,
    ScalingOptions,
    TierMemory,
    decide,
)
from deployments.routing.canary_book import CanaryBook
from deployments.routing.history import History
from deployments.routing.nodes import Nodes

logger = logging.getLogger("ray.serve")

TICK_S = 1.0
FRESH_S = 5.0
"""A sender that has not reported for this long counts as gone."""
TARGET = "target_replicas."
"""Prefix of the metrics that carry the decision to `scaling_policy`."""
_CHUNKS_REMEMBERED = 1000
_DECISIONS_REMEMBERED = 50
_STOPS_REMEMBERED = 100

_Report = TypeVar("_Report")
_FACTS = TypeAdapter(tuple[TierFacts, ...])


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that differs from the one before it. `at` is in ISO 8601."""

    at: str
    tier: str
    replicas: int
    before: int
    reason: str


class _Fresh(Generic[_Report]):
    """The last report of each sender that still reports."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, _Report]] = {}

    def put(self, sender: str, report: _Report, now: float) -> None:
        self._reports[sender] = (now, report)

    def all(self, now: float) -> list[_Report]:
        self._reports = {
            sender: (at, report)
            for sender, (at, report) in self._reports.items()
            if now - at < FRESH_S
        }
        return [report for _, report in self._reports.values()]


class FleetState:
    """Adds up the reports. Times are seconds of any rising clock.

    Args:
        facts: facts of all tiers.
        expected_rtfx: speed of a replica of each tier, used until one was measured.
    """

    def __init__(self, facts: Sequence[TierFacts], expected_rtfx: Mapping[str, float]) -> None:
        self.facts: dict[str, TierFacts] = {}
        self._expected_rtfx: dict[str, float] = {}
        self._rtfx: dict[str, float] = {}
        self._ingresses: _Fresh[IngressReport] = _Fresh()
        self._replicas: dict[str, _Fresh[ReplicaReport]] = {}
        self._arrivals: ArrivalRates[tuple[str, ...]] = ArrivalRates()
        self._chunks: deque[tuple[int, float]] = deque(maxlen=_CHUNKS_REMEMBERED)
        self.configure(facts, expected_rtfx)

    def configure(self, facts: Sequence[TierFacts], expected_rtfx: Mapping[str, float]) -> None:
        """Take other facts, and keep what was reported. A measured speed is forgotten where another
        one is expected now: the tier's engine has changed."""
        self.facts = {tier.name: tier for tier in facts}
        self._replicas = {name: self._replicas.get(name, _Fresh()) for name in self.facts}
        self._rtfx = {
            name: self._rtfx[name] if self._expected_rtfx.get(name) == rtfx else rtfx
            for name, rtfx in expected_rtfx.items()
        }
        self._expected_rtfx = dict(expected_rtfx)

    def hear_ingress(self, sender: str, report: IngressReport, now: float) -> None:
        self._ingresses.put(sender, report, now)
        for tiers, seconds in report.arrived_s.items():
            self._arrivals.add(tiers, seconds)
        if report.n_chunks:
            self._chunks.append((report.n_chunks, report.chunks_s))

    def hear_replica(self, tier: str, sender: str, report: ReplicaReport, now: float) -> None:
        if tier in self._replicas:
            self._replicas[tier].put(sender, report, now)

    def replicas(self, tier: str, now: float) -> list[ReplicaReport]:
        """The latest reports of the replicas that still report."""
        return self._replicas[tier].all(now)

    def ingresses(self, now: float) -> list[IngressReport]:
        """The latest reports of the ingresses that still report."""
        return self._ingresses.all(now)

    def snapshot(self, now: float) -> Snapshot:
        ingresses = self._ingresses.all(now)
        return Snapshot(
            tiers=tuple(self._state(name, ingresses, now) for name in self.facts),
            n_ingresses=max(1, len(ingresses)),
            chunk_s=self._chunk_s(),
        )

    def demands(self, now: float) -> list[Demand]:
        """The arriving audio. Call this once per tick."""
        arrivals = sorted(self._arrivals.at(now).items())
        return [Demand(tiers, came.rate, came.idle_s) for tiers, came in arrivals]

    def _state(self, name: str, ingresses: Sequence[IngressReport], now: float) -> TierState:
        replicas = self.replicas(name, now)
        measured = [report.rtfx for report in replicas if report.rtfx is not None]
        if measured:
            self._rtfx[name] = sum(measured) / len(measured)
        return TierState(
            facts=self.facts[name],
            rtfx=self._rtfx[name],
            queued_s=sum(report.queued_s.get(name, 0.0) for report in ingresses),
            batch_s=sum(report.batch_s.get(name, 0.0) for report in ingresses),
            ready=len(replicas),
        )

    def _chunk_s(self) -> float:
        n_chunks = sum(n for n, _ in self._chunks)
        return sum(seconds for _, seconds in self._chunks) / n_chunks if n_chunks else MEAN_CHUNK_S


class Board:
    """The deployment of the board: a `FleetState`, and one decision per second.

    All that it goes by arrives through `reconfigure`, so it can change without a restart.
    """

    def __init__(self) -> None:
        self._fleet = FleetState((), {})
        self._options = ScalingOptions()
        self._memory: Mapping[str, TierMemory] = {}
        self._plan: Plan | None = None
        self._changes: deque[Change] = deque(maxlen=_DECISIONS_REMEMBERED)
        self._history = History()
        self._nodes = Nodes()
        self._canaries = CanaryBook()
        self._stopped: deque[str] = deque(maxlen=_STOPS_REMEMBERED)
        self._faults = 0
        self._began = time.monotonic()
        self._ticking: asyncio.Task[None] | None = None

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Called by Serve with the deployment's `user_config`.

        Args:
            config: `facts` and `expected_rtfx` as in `FleetState`, the facts as mappings; `scaling`
                with the fields of `ScalingOptions`; `canaries` as in `CanaryBook`.
        """
        facts = _FACTS.validate_python(config["facts"])
        self._options = replace(ScalingOptions(), **config["scaling"])
        self._fleet.configure(facts, config["expected_rtfx"])
        self._canaries.configure(config.get("canaries", {}))

    async def report_ingress(self, sender: str, report: IngressReport) -> Snapshot:
        """Take the report of an ingress. Returns the state of all tiers."""
        self._start()
        now = time.monotonic()
        self._fleet.hear_ingress(sender, report, now)
        self._history.hear(report.done_s, report.outcomes)
        self._canaries.hear(report.canaries)
        return replace(self._snapshot(now), stopped=tuple(self._stopped))

    async def report_replica(self, tier: str, sender: str, report: ReplicaReport) -> None:
        self._start()
        self._fleet.hear_replica(tier, sender, report, time.monotonic())

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, which passes the returned decision to `scaling_policy`."""
        self._start()
        decisions = {} if self._plan is None else self._plan.decisions
        return {f"{TARGET}{name}": float(d.replicas) for name, d in decisions.items()}

    async def cluster(self) -> dict[str, Any]:
        """The content of `GET /v1/cluster`: tiers with their load and price, and decisions."""
        now = time.monotonic()
        snapshot = self._snapshot(now)
        ingresses = self._fleet.ingresses(now)
        runs = sorted((run for each in ingresses for run in each.runs), key=lambda run: run.began)
        return {
            "tiers": [self._describe(tier, snapshot.chunk_s, now) for tier in snapshot.tiers],
            "usd_per_hour": sum(t.ready * t.facts.usd_per_hour for t in snapshot.tiers),
            "ingresses": snapshot.n_ingresses,
            "mean_chunk_s": round(snapshot.chunk_s, 2),
            "autoscaler_faults": self._faults,
            "decisions": [asdict(change) for change in reversed(self._changes)],
            "canaries": self._canaries.describe(),
            "nodes": self._nodes.groups,
            "n_requests": sum(each.n_runs for each in ingresses),
            "requests": [asdict(run) for run in runs],
        }

    async def history(self, since: float) -> dict[str, Any]:
        """The content of `GET /v1/cluster/history`: see `History.since`."""
        return self._history.since(since)

    async def stop(self, run_id: str) -> bool:
        """Let the ingress that has this run end it, when it reports next. Returns whether the run
        is under way."""
        ingresses = self._fleet.ingresses(time.monotonic())
        is_known = any(run.id == run_id for each in ingresses for run in each.runs)
        if is_known and run_id not in self._stopped:
            self._stopped.append(run_id)
        return is_known

    def _snapshot(self, now: float) -> Snapshot:
        """The fleet's snapshot, with tiers marked for which no more devices are available."""
        decisions = {} if self._plan is None else self._plan.decisions
        denied = {name for name, decision in decisions.items() if decision.denied}
        snapshot = self._fleet.snapshot(now)
        tiers = tuple(replace(t, denied=t.facts.name in denied) for t in snapshot.tiers)
        return replace(snapshot, tiers=tiers, settled=now - self._began >= FRESH_S)

    def _describe(self, tier: TierState, chunk_s: float, now: float) -> dict[str, Any]:
        facts = tier.facts
        reports = self._fleet.replicas(facts.name, now)
        decision = None if self._plan is None else self._plan.decisions.get(facts.name)
        wait_s = tier.wait_s(chunk_s)
        return {
            "name": facts.name,
            "adapters": facts.adapters,
            "accelerator": facts.accelerator,
            "quality": facts.quality or None,
            "replicas": tier.ready,
            "target_replicas": None if decision is None else decision.replicas,
            "denied": tier.denied,
            "min_replicas": facts.min_replicas,
            "max_replicas": facts.max_replicas,
            "slots": facts.slots * tier.ready,
            "slots_in_use": sum(report.n_used for report in reports),
            "queued_audio_s": round(tier.queued_s + tier.batch_s, 2),
            "wait_s": round(wait_s, 2) if math.isfinite(wait_s) else None,
            "rtfx": round(tier.rtfx, 2),
            "rtfx_measured": any(report.rtfx is not None for report in reports),
            "usd_per_hour": facts.usd_per_hour,
            "usd_per_audio_hour": round(tier.usd_per_audio_s * 3600, 6),
            "reason": "" if decision is None else decision.reason,
        }

    def _start(self) -> None:
        # At the first call, because there is no event loop in the constructor.
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._decide_for_ever())

    async def _decide_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._nodes.refresh()
            try:
                self._decide(time.monotonic())
                self._remember(time.time(), time.monotonic())
            except Exception:  # border of the task: the last decision stays
                self._faults += 1
                logger.exception("the autoscaler failed, its last decision stays")

    def _decide(self, now: float) -> None:
        demands = self._fleet.demands(now)
        # Until all ingresses have reported, a tier may look idle although it is not.
        if now - self._began < FRESH_S:
            return
        snapshot = self._fleet.snapshot(now)
        before = self._plan
        plan = decide(snapshot.tiers, demands, self._memory, now, self._options, snapshot.chunk_s)
        self._plan, self._memory = plan, plan.memory
        for tier in snapshot.tiers:
            name = tier.facts.name
            decision = plan.decisions[name]
            was = before.decisions[name].replicas if before is not None else tier.ready
            if decision.replicas != was:
                at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                change = Change(at, name, decision.replicas, was, decision.reason)
                self._changes.append(change)
                logger.info("%s: %d -> %d replicas: %s", name, was, change.replicas, change.reason)

    def _remember(self, at: float, now: float) -> None:
        """Take a sample for the history, if it is time for one."""
        if not self._history.is_due(at):
            return
        snapshot = self._snapshot(now)
        names = [tier.facts.name for tier in snapshot.tiers]
        reports = {name: self._fleet.replicas(name, now) for name in names}
        used = {name: sum(report.n_used for report in reports[name]) for name in names}
        plan = {} if self._plan is None else self._plan.decisions
        targets = {name: decision.replicas for name, decision in plan.items()}
        self._history.sample(at, snapshot.tiers, used, targets, snapshot.chunk_s)
