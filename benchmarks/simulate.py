"""A day of a fleet in minutes: Murmur's router and autoscaler against simpler ways, by traces.

    python -m benchmarks.simulate [--traces ...] [--rate 100] [--hours 24] [--plot STEM]

Tiers are Whisper models on the cheapest instances of `gpu_catalogue`, at half of the planner's
roofline. Each policy is run at several reserves, and the cheapest run that keeps the objective
(99 % of chunks start within 5 s) is shown, or the one that comes closest. Prints a table, then one
JSON line; --plot draws STEM.png and STEM.svg.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.simulation.cluster import SimTier
from benchmarks.simulation.policies import Murmur, Policy, RayDefault
from benchmarks.simulation.run import Outcome, Run
from benchmarks.simulation.traces import DAY_S, TRACES, merged
from deployments.autoscaling import ScalingOptions
from deployments.fleet import Quality, TierFacts
from deployments.gpu_catalogue import gpu_catalogue
from deployments.planner import REACHED, Question, plan
from engine.config import EngineConfig
from engine.model_sizes import MODEL_SIZES

OBJECTIVE = 0.01
_WARM_UP_S = 1800.0
"""Of each run, before what is counted."""
_COLD_START_S = 150.0
_LOST_PER_HOUR = 0.05
"""Interruptions of spot machines: a machine's life is 20 hours on average."""


@dataclass(frozen=True)
class TierKind:
    """A model on a class of GPU.

    `wer` is OpenAI's own of LibriSpeech test-clean (Radford et al. 2022, appendix D.1; turbo's
    and large-v3's are large-v2's), `doubted` the share of its chunks that look wrong.
    """

    name: str
    model: str
    gpu: str
    quality: int
    wer: float
    doubted: float
    spot: bool = True


KINDS = (
    TierKind("base", "base", "T4", 2, 0.050, 0.25),
    TierKind("small", "small", "L4", 3, 0.034, 0.15),
    TierKind("turbo", "turbo", "L4", 5, 0.027, 0.05),
    TierKind("large", "large-v3", "A100-40G", 6, 0.027, 0.0),
)


@dataclass(frozen=True)
class Contender:
    """A policy, its tiers, and the reserves that it is tried with."""

    name: str
    make: Callable[[float], Policy]
    reserves: tuple[float, ...]
    only: str | None = None


def tiers_of(max_replicas: int) -> list[SimTier]:
    found = []
    for kind in KINDS:
        planned = plan(
            Question(MODEL_SIZES[kind.model], EngineConfig()), gpu_catalogue().gpu(kind.gpu)
        )
        instance = gpu_catalogue().cheapest(kind.gpu, kind.spot)
        price = instance and instance.usd_per_gpu_hour(kind.spot)
        assert price is not None
        facts = TierFacts(
            name=kind.name,
            quality=kind.quality,
            languages=None,
            translates=True,
            accelerator=kind.gpu,
            usd_per_hour=price,
            min_replicas=1,
            max_replicas=max_replicas,
            slots=planned.config.max_slots,
            cold_start_s=_COLD_START_S,
        )
        lost = _LOST_PER_HOUR if kind.spot else 0.0
        found.append(SimTier(facts, planned.rtfx * REACHED, 1.0, kind.wer, kind.doubted, lost))
    return found


def contenders() -> list[Contender]:
    def murmur(name: str, **options: object) -> Callable[[float], Policy]:
        def make(utilization: float) -> Policy:
            return Murmur(name, ScalingOptions(utilization=utilization), **options)  # type: ignore[arg-type]

        return make

    shares = (0.8, 0.6, 0.4, 0.2, 0.1)
    return [
        Contender("murmur", murmur("murmur"), shares),
        Contender("no prices", murmur("no prices", knows_prices=False), shares),
        Contender(
            "no cascade", murmur("no cascade", quality=Quality.BEST, escalates=False), shares
        ),
        Contender("large alone", lambda share: RayDefault("large", 48 * share), shares, "large"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    print("| trace | policy | USD | USD/audio h | late | p99 wait s | WER | escalated | reserve "
          "| GPU hours |")  # fmt: skip
    print("|---" * 10 + "|", flush=True)
    found: dict[str, dict[str, tuple[float, Outcome]]] = {}
    began = time.perf_counter()
    for trace in options.traces:
        found[trace] = {}
        for contender in contenders():
            found[trace][contender.name] = _best(contender, trace, options)
            print(_row(trace, *found[trace][contender.name]), flush=True)
    _report(found, time.perf_counter() - began)
    if options.plot is not None:
        _plot(found, options.plot)


def _best(contender: Contender, trace: str, options: argparse.Namespace) -> tuple[float, Outcome]:
    """The cheapest reserve that keeps the objective, else the one with the fewest late chunks."""
    tried = [(reserve, _run(contender, reserve, trace, options)) for reserve in contender.reserves]
    kept = [(reserve, outcome) for reserve, outcome in tried if outcome.late <= OBJECTIVE]
    if kept:
        return min(kept, key=lambda pair: pair[1].usd)
    return min(tried, key=lambda pair: pair[1].late)


def _run(contender: Contender, reserve: float, trace: str, options: argparse.Namespace) -> Outcome:
    start_s = options.start * 3600
    ends_s = start_s + options.hours * 3600
    tiers = [
        tier for tier in tiers_of(options.max_replicas) if contender.only in (None, tier.facts.name)
    ]
    streams = TRACES[trace](options.rate)
    run = Run(tiers, contender.make(reserve), options.seed, start_s, ends_s)
    return run.play(merged(streams, start_s - _WARM_UP_S, ends_s, options.seed))


def _row(trace: str, reserve: float, outcome: Outcome) -> str:
    hours = ", ".join(f"{name} {n:.0f}" for name, n in outcome.device_hours.items() if n >= 0.5)
    return (
        f"| {trace} | {outcome.policy} | {outcome.usd:,.0f} | {outcome.usd_per_audio_hour:.4f} "
        f"| {100 * outcome.late:.2f} % | {outcome.wait_p99_s:.1f} | {100 * outcome.wer:.2f} % "
        f"| {100 * outcome.escalated:.0f} % | {reserve:g} | {hours} |"
    )


def _report(found: dict[str, dict[str, tuple[float, Outcome]]], took_s: float) -> None:
    results = [
        asdict(outcome) | {"trace": trace, "reserve": reserve, "samples": None}
        for trace, outcomes in found.items()
        for reserve, outcome in outcomes.values()
    ]
    print(json.dumps({"results": results, "took_s": took_s}))


def _plot(found: dict[str, dict[str, tuple[float, Outcome]]], stem: Path) -> None:
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(len(found), 2, figsize=(11, 2.6 * len(found)), squeeze=False)
    for (trace, outcomes), (left, right) in zip(found.items(), rows, strict=True):
        names = list(outcomes)
        left.barh(names, [outcomes[name][1].usd for name in names], color="#4477aa")
        left.invert_yaxis()
        left.set(title=trace, xlabel="USD")
        samples = outcomes["murmur"][1].samples
        hours = [at / 3600 for at, _ in samples]
        for kind in KINDS:
            counts = [replicas[kind.name] for _, replicas in samples]
            right.step(hours, counts, label=f"{kind.name}, {kind.gpu}", linewidth=1)
        right.set(title="replicas", xlabel="hour")
        right.legend(fontsize=7)
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix), dpi=110)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    parser = argparse.ArgumentParser(description="Router and autoscaler in simulated days.")
    parser.add_argument("--traces", type=names, default=",".join(TRACES))
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second, on average")
    parser.add_argument("--hours", type=float, default=DAY_S / 3600)
    parser.add_argument("--start", type=float, default=0.0, help="hour of the day")
    parser.add_argument("--max-replicas", type=int, default=200, help="of each tier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None, metavar="STEM")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
