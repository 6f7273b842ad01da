"""What a request asks for, and what is refused before anything is decoded."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from deployments.entrance.tasks import RoutingOptions, Tasks
from deployments.errors import OptionError
from deployments.fleet import Quality, TierFacts, TierState
from deployments.options import TranscribeOptions
from deployments.tier import TierInfo


def facts(
    name: str, translates: bool, quality: int = 1, languages: frozenset[str] | None = None
) -> TierFacts:
    return TierFacts(name, quality, languages, translates, "cpu", 1.0, 1, 1, 8, 20.0)


@pytest.mark.parametrize(
    ("asked", "tiers", "says"),
    [
        ("turbo", {"turbo": False, "base": True, "large": True}, "'turbo' .* do: base, large"),
        ("whisper-1", {"turbo": False, "base": True}, r"'whisper-1' \(turbo\) .* do: base"),
        ("turbo", {"turbo": False}, "'turbo' does not translate; none here does"),
    ],
)
def test_a_tier_that_does_not_translate_says_which_do(
    asked: str, tiers: dict[str, bool], says: str
) -> None:
    routing = RoutingOptions(tuple(facts(*item) for item in tiers.items()), {})
    tasks = Tasks({}, routing, cast(Any, None))
    with pytest.raises(OptionError, match=says) as caught:
        asyncio.run(tasks.make("turbo", TranscribeOptions(model=asked, task="translate")))
    assert caught.value.option == "model"


@pytest.mark.parametrize(
    ("tiers", "option", "says"),
    [
        ([facts("mine", True, 0)], "model", "by quality, which no tier has"),
        (
            [facts(name, False, 1, frozenset([name])) for name in ("en", "de")],
            "language",
            "no tier can detect it; there are tiers for de, en",
        ),
    ],
)
def test_what_auto_cannot_choose_by_is_said(tiers: list[TierFacts], option: str, says: str) -> None:
    tasks = Tasks({}, RoutingOptions(tuple(tiers), {}), cast(Any, None))
    with pytest.raises(OptionError, match=says) as caught:
        asyncio.run(tasks.make("auto", TranscribeOptions()))
    assert caught.value.option == option


class Fleet:
    """Stands for a dispatcher: tiers that all have a replica."""

    def __init__(self, tiers: Sequence[TierFacts]) -> None:
        self._tiers = tiers

    def all_states(self) -> list[TierState]:
        return [TierState(tier, 100.0, ready=1) for tier in self._tiers]


def test_chunks_of_several_languages_may_go_to_any_tier() -> None:
    """They are not told the text before them, so nothing keeps them on one."""
    tiers = (facts("small", True, 1), facts("large", True, 6))
    tasks = Tasks({}, RoutingOptions(tiers, {}), cast(Any, Fleet(tiers)))
    asked = TranscribeOptions(multilingual=True, context_chunks=8)
    task = asyncio.run(tasks.make("auto", asked))
    assert task.ask.tier is None and task.wanted.ladder is not None


@pytest.mark.parametrize(
    ("asked", "quality", "beams"),
    [
        (TranscribeOptions(quality=Quality.BEST), Quality.BALANCED, 5),
        (TranscribeOptions(), Quality.BEST, 5),
        (TranscribeOptions(beam_size=1), Quality.BEST, 1),
        (TranscribeOptions(beam_size=3, quality=Quality.BEST), Quality.BALANCED, 3),
        (TranscribeOptions(), Quality.BALANCED, 1),
        (TranscribeOptions(quality=Quality.FAST), Quality.BEST, 1),
    ],
)
def test_the_best_quality_searches(asked: TranscribeOptions, quality: Quality, beams: int) -> None:
    tiers = (facts("small", True, 1), facts("large", True, 6))
    tasks = Tasks({}, RoutingOptions(tiers, {}, quality), cast(Any, Fleet(tiers)))
    task = asyncio.run(tasks.make("auto", asked))
    assert task.wanted.decoding.beam_size == beams


def test_the_best_tier_searches_with_the_beams_that_it_has_slots_for() -> None:
    tiers = (facts("small", True, 1), replace(facts("large", True, 6), max_slot_groups=2))
    tasks = Tasks({}, RoutingOptions(tiers, {}, Quality.BEST), cast(Any, Fleet(tiers)))
    assert asyncio.run(tasks.make("auto", TranscribeOptions())).wanted.decoding.beam_size == 4
    with pytest.raises(OptionError, match="beam_size is 5, and .* follows 4 texts"):
        asyncio.run(tasks.make("auto", TranscribeOptions(beam_size=5)))


class Described:
    """Stands for a client of a tier: knows what its model can do."""

    async def info(self) -> TierInfo:
        return TierInfo("m", "int8", ("en", "de"), True, 8, 8)


@pytest.mark.parametrize(("model", "adapter"), [("turbo", ""), ("names", "names")])
def test_an_adapter_is_asked_of_its_tier(model: str, adapter: str) -> None:
    routing = RoutingOptions((facts("turbo", True),), {}, adapters={"names": "turbo"})
    tasks = Tasks(cast(Any, {"turbo": Described()}), routing, cast(Any, None))
    ask = asyncio.run(tasks.make(model, TranscribeOptions(model=model))).ask
    assert (ask.tier, ask.adapter) == ("turbo", adapter)
    routing = replace(routing, facts=(facts("turbo", False),))
    tasks = Tasks(cast(Any, {"turbo": Described()}), routing, cast(Any, None))
    with pytest.raises(OptionError, match=f"'{model}'.* does not translate; none here does"):
        asyncio.run(tasks.make(model, TranscribeOptions(model=model, task="translate")))
