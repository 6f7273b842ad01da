"""Which tier a chunk goes to: examples, and what holds for all fleets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import NoTierError
from deployments.fleet import MEAN_CHUNK_S, Priority, Quality, TierFacts, TierState
from deployments.routing.router import Ask, candidates, route

TINY = TierFacts("tiny.en", 1, frozenset({"en"}), False, "T4", 0.5, 0, 8, 24, 60.0)
BASE = TierFacts("base", 2, None, True, "T4", 0.5, 1, 8, 24, 60.0)
TURBO = TierFacts("turbo", 6, None, False, "L4", 0.8, 1, 8, 24, 90.0)
LARGE = TierFacts("large", 6, None, True, "A100", 4.0, 0, 8, 24, 120.0)
FLEET = (
    TierState(TINY, rtfx=400.0, ready=2),
    TierState(BASE, rtfx=200.0, ready=1),
    TierState(TURBO, rtfx=100.0, ready=1),
    TierState(LARGE, rtfx=90.0, ready=1),
)


def with_queue(name: str, queued_s: float, **changes: float) -> tuple[TierState, ...]:
    return tuple(
        replace(t, queued_s=queued_s, **changes) if t.facts.name == name else t for t in FLEET
    )


class TestExamples:
    @pytest.mark.parametrize(
        ("ask", "tier"),
        [
            (Ask("en"), "tiny.en"),
            (Ask("fr"), "base"),
            (Ask(None), "base"),  # an English-only model hears English in everything
            (Ask("fr", "translate", quality=Quality.BEST), "large"),  # turbo never learned it
            (Ask("fr", quality=Quality.BEST), "turbo"),
            (Ask("en", above=1), "base"),
            (Ask("en", above=2), "turbo"),
            (Ask("en", tier="large"), "large"),
        ],
    )
    def test_an_idle_fleet_gives_the_cheapest_that_can(self, ask: Ask, tier: str) -> None:
        assert route(ask, FLEET).tier == tier

    def test_a_long_queue_sends_chunks_elsewhere(self) -> None:
        """Two replicas of 24 slots have 960 s in work; 4,000 more at 800 s/s take 5 s."""
        in_slots = 2 * 24 * MEAN_CHUNK_S
        there = route(Ask("en"), with_queue("tiny.en", in_slots + 3_990))
        assert (there.tier, there.reason) == ("tiny.en", "cheapest")
        assert there.wait_s == pytest.approx(3_990 / 800)
        away = route(Ask("en"), with_queue("tiny.en", in_slots + 4_010))
        assert (away.tier, away.reason) == ("base", "spilled")

    def test_a_tier_without_replicas_is_as_late_as_its_start(self) -> None:
        asleep = with_queue("tiny.en", 0.0, ready=0)
        assert route(Ask("en"), asleep).tier == "base"
        patient = Ask("en", priority=Priority.BATCH, patience_s=600.0)
        assert route(patient, asleep).tier == "tiny.en"
        alone = route(Ask("en", tier="tiny.en"), asleep)
        assert (alone.tier, alone.wait_s, alone.reason) == ("tiny.en", 60.0, "named")

    def test_nobody_waits_for_a_tier_that_cannot_be_had(self) -> None:
        """The A100 takes longer to come than the T4 would, but it comes."""
        tiny, large = FLEET[0], FLEET[3]
        gone = (replace(tiny, ready=0, denied=True), replace(large, ready=0))
        assert route(Ask("en"), gone).tier == "large"
        assert route(Ask("en", tier="tiny.en"), gone).tier == "tiny.en"
        assert route(Ask("en"), gone[:1]).tier == "tiny.en"

    def test_where_all_are_late_the_least_late_is_taken(self) -> None:
        late = tuple(replace(t, queued_s=1e6) for t in FLEET)
        found = route(Ask("en"), late)
        assert (found.tier, found.reason) == ("tiny.en", "late")

    def test_batch_work_makes_nobody_else_wait(self) -> None:
        nightly = with_queue("tiny.en", 0.0, batch_s=1e6)
        assert route(Ask("en"), nightly).wait_s == 0.0
        assert route(Ask("en", priority=Priority.BATCH), nightly).tier == "base"

    def test_what_no_tier_can_do_is_refused(self) -> None:
        with pytest.raises(NoTierError, match="no tier can translate 'fr'"):
            route(Ask("fr", "translate"), (FLEET[0], FLEET[2]))
        with pytest.raises(NoTierError):
            route(Ask("en", above=6), FLEET)


positive = st.floats(0.1, 1e4)
amounts = st.floats(0.0, 1e6)


@st.composite
def states(draw: st.DrawFn, index: int = 0) -> TierState:
    languages = draw(st.sampled_from([None, frozenset({"en"}), frozenset({"en", "fr"})]))
    facts = TierFacts(
        name=f"tier-{index}",
        quality=draw(st.integers(1, 4)),
        languages=languages,
        translates=draw(st.booleans()),
        accelerator=draw(st.sampled_from(["T4", "L4", "A100"])),
        usd_per_hour=draw(positive),
        min_replicas=draw(st.integers(0, 2)),
        max_replicas=draw(st.integers(2, 50)),
        slots=draw(st.integers(1, 64)),
        cold_start_s=draw(st.floats(1.0, 600.0)),
    )
    rtfx, queued_s, batch_s = draw(positive), draw(amounts), draw(amounts)
    return TierState(facts, rtfx, queued_s, batch_s, draw(st.integers(0, 50)), draw(st.booleans()))


@st.composite
def fleets(draw: st.DrawFn) -> tuple[TierState, ...]:
    return tuple(draw(states(index)) for index in range(draw(st.integers(1, 6))))


asks = st.builds(
    Ask,
    language=st.sampled_from([None, "en", "fr", "de"]),
    task=st.sampled_from(["transcribe", "translate"]),
    quality=st.sampled_from(Quality),
    above=st.none() | st.integers(0, 4),
    priority=st.sampled_from(Priority),
    patience_s=st.floats(0.1, 1e3),
)


class TestAlways:
    @given(asks, fleets())
    def test_never_a_tier_that_cannot(self, ask: Ask, fleet: tuple[TierState, ...]) -> None:
        able = [
            t.facts.name
            for t in fleet
            if t.facts.can(ask.language, ask.task)
            and (ask.above is None or t.facts.quality > ask.above)
        ]
        if ask.quality is Quality.BEST:
            best = max(
                (t.facts.quality for t in fleet if t.facts.can(ask.language, ask.task)), default=0
            )
            able = [t.facts.name for t in fleet if t.facts.name in able and t.facts.quality == best]
        if able:
            assert route(ask, fleet).tier in able
        else:
            with pytest.raises(NoTierError):
                route(ask, fleet)

    @given(asks, fleets())
    def test_the_cheapest_that_is_in_time(self, ask: Ask, fleet: tuple[TierState, ...]) -> None:
        try:
            found = route(ask, fleet)
        except NoTierError:
            return
        with_batch = ask.priority is Priority.BATCH
        able = candidates(ask, fleet)
        chosen = next(t for t in able if t.facts.name == found.tier)
        in_time = [t for t in able if t.wait_s(MEAN_CHUNK_S, with_batch) <= ask.patience_s]
        if in_time:
            assert chosen in in_time
            assert all(chosen.usd_per_audio_s <= t.usd_per_audio_s for t in in_time)
        else:
            assert all(found.wait_s <= t.wait_s(MEAN_CHUNK_S, with_batch) for t in able)

    @given(asks, fleets(), amounts)
    def test_a_longer_queue_attracts_nobody(
        self, ask: Ask, fleet: tuple[TierState, ...], more_s: float
    ) -> None:
        """Of two fleets that differ in one queue, the one with the longer queue is not chosen where
        the other was not."""
        try:
            before = route(ask, fleet).tier
        except NoTierError:
            return
        longer = tuple(
            replace(t, queued_s=t.queued_s + more_s) if t.facts.name != before else t for t in fleet
        )
        assert route(ask, longer).tier == before

    @given(asks, fleets())
    def test_the_order_of_tiers_does_not_count(
        self, ask: Ask, fleet: tuple[TierState, ...]
    ) -> None:
        try:
            found = route(ask, fleet)
        except NoTierError:
            return
        backwards = route(ask, tuple(reversed(fleet)))
        assert backwards.wait_s == found.wait_s
        assert backwards.reason == found.reason
