"""Chooses the tier for a chunk: the cheapest one that is accurate enough and not too late.

The choice is a pure function of the chunk's needs and the tiers' state. The simulator calls it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.errors import NoTierError
from deployments.fleet import MEAN_CHUNK_S, Priority, Quality, TierState


@dataclass(frozen=True, slots=True)
class Ask:
    """What a chunk needs from a tier.

    Attributes:
        language: ISO code; None: the tier has to detect it.
        tier: the only tier that may be chosen; None: any tier that can do it and whose quality is
            known.
        quality: required accuracy.
        above: only tiers of higher quality than this may be chosen. Set for a chunk whose text
            looked wrong.
        patience_s: seconds that the chunk may wait for a slot.
        adapter: the named tier's adapter that is to decode it; empty: none.
    """

    language: str | None = None
    task: str = "transcribe"
    tier: str | None = None
    quality: Quality = Quality.BALANCED
    above: int | None = None
    priority: Priority = Priority.INTERACTIVE
    patience_s: float = 5.0
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a chunk goes.

    Attributes:
        wait_s: estimated seconds until the chunk gets a slot.
        reason: `named`, `cheapest`, `spilled` (cheaper tiers would be too late) or `late` (all
            tiers would be too late, and this one has the shortest wait).
    """

    tier: str
    wait_s: float
    reason: str


def candidates(ask: Ask, tiers: Sequence[TierState]) -> list[TierState]:
    """The tiers that can do what is asked, the cheapest first.

    Raises:
        NoTierError: no tier can.
    """
    if ask.tier is not None:  # not checked here: the model itself refuses what it cannot do
        return [t for t in tiers if t.facts.name == ask.tier]
    able = [t for t in tiers if t.facts.quality and t.facts.can(ask.language, ask.task)]
    if able and ask.quality is Quality.BEST:
        best = max(t.facts.quality for t in able)
        able = [t for t in able if t.facts.quality == best]
    if ask.above is not None:
        able = [t for t in able if t.facts.quality > ask.above]
    if not able:
        raise NoTierError(_missing(ask))
    # At equal prices the more accurate tier is first. Names make the order unique.
    return sorted(able, key=lambda t: (t.usd_per_audio_s, -t.facts.quality, t.facts.name))


def route(ask: Ask, tiers: Sequence[TierState], chunk_s: float = MEAN_CHUNK_S) -> Route:
    """The cheapest tier that can do what is asked within the chunk's patience. If all tiers are too
    late, the one with the shortest wait.

    Args:
        chunk_s: mean seconds of audio per chunk.

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
