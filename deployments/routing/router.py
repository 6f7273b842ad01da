"""Which tier a chunk goes to: the cheapest that is good enough and not too late.

A pure function of the chunk's wishes and the tiers' state, which the simulator calls as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.errors import NoTierError
from deployments.fleet import MEAN_CHUNK_S, Priority, Quality, TierState


@dataclass(frozen=True, slots=True)
class Ask:
    """What a chunk needs of a tier.

    Attributes:
        language: ISO code; None: the tier has to tell it.
        tier: the only one that may be taken; None: any that can and whose quality is known.
        quality: how accurate.
        above: only tiers whose quality is more than this: of a chunk whose text looked wrong.
        patience_s: seconds that it may wait for a slot.
    """

    language: str | None = None
    task: str = "transcribe"
    tier: str | None = None
    quality: Quality = Quality.BALANCED
    above: int | None = None
    priority: Priority = Priority.INTERACTIVE
    patience_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where a chunk goes.

    Attributes:
        reason: `named`, `cheapest`, `spilled` (cheaper ones would be late) or `late` (all would,
            and this one the least).
    """

    tier: str
    wait_s: float
    reason: str


def candidates(ask: Ask, tiers: Sequence[TierState]) -> list[TierState]:
    """Those that can do what is asked, the cheapest first.

    Raises:
        NoTierError: there is none.
    """
    if ask.tier is not None:  # its model says itself what it cannot do
        return [t for t in tiers if t.facts.name == ask.tier]
    able = [t for t in tiers if t.facts.quality and t.facts.can(ask.language, ask.task)]
    if able and ask.quality is Quality.BEST:
        best = max(t.facts.quality for t in able)
        able = [t for t in able if t.facts.quality == best]
    if ask.above is not None:
        able = [t for t in able if t.facts.quality > ask.above]
    if not able:
        raise NoTierError(_missing(ask))
    # More accuracy for the same money is taken; names, so that equals have an order.
    return sorted(able, key=lambda t: (t.usd_per_audio_s, -t.facts.quality, t.facts.name))


def route(ask: Ask, tiers: Sequence[TierState], chunk_s: float = MEAN_CHUNK_S) -> Route:
    """The cheapest tier that can do what is asked without the chunk waiting too long; if all are
    late, the one that is so the least.

    Args:
        chunk_s: audio of a chunk, on average.

    Raises:
        NoTierError: no tier can do what is asked.
    """
    able = candidates(ask, tiers)
    with_batch = ask.priority is Priority.BATCH
    waits = [t.wait_s(chunk_s, with_batch) for t in able]
    for index, (tier, wait_s) in enumerate(zip(able, waits, strict=True)):
        if wait_s <= ask.patience_s:
            reason = "spilled" if index else "cheapest"
            return Route(tier.facts.name, wait_s, "named" if ask.tier else reason)
    index = waits.index(min(waits))
    return Route(able[index].facts.name, waits[index], "named" if ask.tier else "late")


def _missing(ask: Ask) -> str:
    what = ask.task if ask.language is None else f"{ask.task} {ask.language!r}"
    return f"no tier can {what}"
