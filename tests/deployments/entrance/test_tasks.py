"""What a request asks for, and what is refused before anything is decoded."""

import asyncio
from typing import Any, cast

import pytest

from deployments.entrance.tasks import RoutingOptions, Tasks
from deployments.errors import OptionError
from deployments.fleet import TierFacts
from deployments.options import TranscribeOptions


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
