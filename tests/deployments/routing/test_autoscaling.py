"""How many replicas each tier gets: examples, and what holds for all fleets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deployments.fleet import MEAN_CHUNK_S, TierState
from deployments.routing.autoscaling import Demand, Plan, ScalingOptions, TierMemory, decide
from tests.deployments.routing.test_router import BASE, LARGE, TINY, amounts, fleets

Load = tuple[tuple[TierState, ...], list[Demand]]
OPTIONS = ScalingOptions()
STEP_S = 1.0
TINY_NOW = TierState(TINY, rtfx=400.0)
BASE_NOW = TierState(BASE, rtfx=200.0, ready=1)
LARGE_NOW = TierState(LARGE, rtfx=90.0)


def replicas(plan: Plan) -> dict[str, int]:
    return {name: decision.replicas for name, decision in plan.decisions.items()}


def in_slots(tier: TierState) -> float:
    return tier.ready * tier.facts.slots * MEAN_CHUNK_S


class Clock:
    """Decides again and again, with as many replicas as were decided, for they come at once, but
    for those of a tier that is `gone`."""

    def __init__(self, tiers: Sequence[TierState], options: ScalingOptions = OPTIONS) -> None:
        self.tiers = list(tiers)
        self.options = options
        self.now = 0.0
        self.memory: Mapping[str, TierMemory] = {}

    def tick(
        self, demands: Sequence[Demand] = (), gone: str = "", step_s: float = STEP_S
    ) -> dict[str, int]:
        self.now += step_s
        plan = decide(self.tiers, demands, self.memory, self.now, self.options)
        self.memory = plan.memory
        targets = replicas(plan)
        self.tiers = [
            t if t.facts.name == gone else replace(t, ready=targets[t.facts.name])
            for t in self.tiers
        ]
        return targets

    def run(self, seconds: float, demands: Sequence[Demand] = (), gone: str = "") -> list[int]:
        """Replicas of all tiers together, at each tick."""
        return [sum(self.tick(demands, gone).values()) for _ in range(int(seconds / STEP_S))]


class TestExamples:
    def test_work_goes_to_the_cheapest_that_can(self) -> None:
        """600 s/s at 400 x 0.75 a replica are two; large has none to do."""
        plan = decide(
            (TINY_NOW, BASE_NOW, LARGE_NOW),
            [Demand(("tiny.en", "base", "large"), 600.0)],
            {},
            0.0,
            OPTIONS,
        )
        assert replicas(plan) == {"tiny.en": 2, "base": 1, "large": 0}
        assert "600.0 s/s of 400.0 a replica" in plan.decisions["tiny.en"].reason

    def test_a_replica_that_others_have_room_for_is_not_started(self) -> None:
        """base has to have one, which is idle enough."""
        plan = decide((TINY_NOW, BASE_NOW), [Demand(("tiny.en", "base"), 100.0)], {}, 0.0, OPTIONS)
        assert replicas(plan) == {"tiny.en": 0, "base": 1}

    def test_what_a_tier_has_no_replicas_for_goes_to_the_next(self) -> None:
        small = replace(TINY_NOW, facts=replace(TINY, max_replicas=1))
        plan = decide((small, BASE_NOW), [Demand(("tiny.en", "base"), 750.0)], {}, 0.0, OPTIONS)
        assert replicas(plan) == {"tiny.en": 1, "base": 3}

    def test_a_queue_wakes_a_tier(self) -> None:
        waiting = replace(TINY_NOW, queued_s=1.0)
        assert replicas(decide((waiting,), [], {}, 0.0, OPTIONS)) == {"tiny.en": 1}

    def test_batch_work_takes_its_time(self) -> None:
        """240,000 s in 600 s are one replica's work, in 60 s that of ten."""
        batch = replace(TINY_NOW, batch_s=240_000.0)
        assert replicas(decide((batch,), [], {}, 0.0, OPTIONS)) == {"tiny.en": 1}
        urgent = replace(TINY_NOW, queued_s=240_000.0, facts=replace(TINY, max_replicas=20))
        assert replicas(decide((urgent,), [], {}, 0.0, OPTIONS)) == {"tiny.en": 10}

    def test_a_replica_goes_when_it_was_idle_for_long_and_the_last_one_later(self) -> None:
        clock = Clock([TINY_NOW])
        assert clock.tick([Demand(("tiny.en",), 600.0)]) == {"tiny.en": 2}
        assert clock.run(OPTIONS.down_delay_s - STEP_S)[-1] == 2
        assert clock.tick() == {"tiny.en": 1}
        assert clock.run(OPTIONS.zero_delay_s - OPTIONS.down_delay_s - STEP_S)[-1] == 1
        assert clock.tick() == {"tiny.en": 0}

    def test_a_tier_is_idle_from_its_last_work_on_and_not_from_its_last_need(self) -> None:
        """A mean rate of 30 s asks for a replica long after the last audio came."""
        options = replace(OPTIONS, down_delay_s=120.0, zero_delay_s=10.0)
        clock = Clock([TINY_NOW], options)
        targets = [clock.tick([Demand(("tiny.en",), 5.0, float(idle))]) for idle in range(30)]
        assert targets == [{"tiny.en": int(idle < 10)} for idle in range(30)]

    def test_a_tier_that_has_work_is_not_idle_however_long_that_takes(self) -> None:
        """What is in slots needs no more replicas, and came long ago."""
        clock = Clock([TINY_NOW], replace(OPTIONS, zero_delay_s=5.0))
        clock.tick([Demand(("tiny.en",), 5.0)])
        for amounts_s in ({"queued_s": 20.0}, {"batch_s": 20.0}):
            clock.tiers = [replace(TINY_NOW, ready=1, **amounts_s)]
            assert clock.run(60) == [1] * 60
        clock.tiers = [replace(TINY_NOW, ready=1)]
        assert clock.run(6) == [1, 1, 1, 1, 0, 0]

    def test_what_is_asked_for_in_vain_is_asked_for_while_there_is_work(self) -> None:
        """base does it all meanwhile, so that the tier itself has none."""
        clock = Clock([TINY_NOW, BASE_NOW], replace(OPTIONS, zero_delay_s=5.0, down_delay_s=5.0))
        demand = Demand(("tiny.en", "base"), 600.0)
        clock.run(1000, [demand], gone="tiny.en")
        assert clock.tick([demand], gone="tiny.en")["tiny.en"] == 2
        for _ in range(6):
            targets = clock.tick(gone="tiny.en")
        assert targets["tiny.en"] == 0

    def test_a_load_of_about_a_whole_number_of_replicas_lets_none_come_and_go(self) -> None:
        """300 s/s a replica: now 285 and now 315, each for longer than a replica is kept."""
        clock = Clock([TINY_NOW])
        targets = []
        for rate in (285.0, 315.0) * 5:
            targets += clock.run(2 * OPTIONS.down_delay_s, [Demand(("tiny.en",), rate)])
        assert targets == sorted(targets)
        assert targets[-1] == 2
        # One replica would have a tenth of what is planned with left below 270.
        clock.run(2 * OPTIONS.down_delay_s, [Demand(("tiny.en",), 271.0)])
        assert clock.tick([Demand(("tiny.en",), 271.0)]) == {"tiny.en": 2}
        clock.run(2 * OPTIONS.down_delay_s, [Demand(("tiny.en",), 269.0)])
        assert clock.tick([Demand(("tiny.en",), 269.0)]) == {"tiny.en": 1}

    def test_what_was_never_there_is_not_kept(self) -> None:
        """With the margin it would be two; needed is one."""
        assert Clock([TINY_NOW]).run(300, [Demand(("tiny.en",), 285.0)]) == [1] * 300

    def test_what_does_the_work_of_a_tier_that_cannot_be_had_does_not_come_and_go(self) -> None:
        """150 s/s a replica of base: now 290 and now 310, and tiny.en would be enough for both."""
        clock = Clock([TINY_NOW, BASE_NOW])
        clock.run(1000, [Demand(("tiny.en", "base"), 290.0)], gone="tiny.en")
        targets = []
        for rate in (290.0, 310.0) * 4:
            demand = [Demand(("tiny.en", "base"), rate)]
            clock.run(2 * OPTIONS.down_delay_s, demand, gone="tiny.en")
            targets.append(clock.tick(demand, gone="tiny.en")["base"])
        assert targets == [2, *[3] * 7]

    def test_a_margin_starts_nothing_on_another_tier(self) -> None:
        """Two of tiny.en do 600 s/s, with the margin 540; large could do the other 30."""
        small = replace(TINY_NOW, facts=replace(TINY, max_replicas=2))
        clock = Clock([small, LARGE_NOW])
        assert clock.run(900, [Demand(("tiny.en", "large"), 570.0)]) == [2] * 900

    def test_without_delays_what_is_needed_now_still_counts(self) -> None:
        options = replace(OPTIONS, down_delay_s=0.0, zero_delay_s=0.0)
        clock = Clock([TINY_NOW], options)
        assert clock.tick([Demand(("tiny.en",), 600.0)]) == {"tiny.en": 2}
        assert clock.tick() == {"tiny.en": 0}

    def test_a_board_that_was_lost_takes_nobody_away(self) -> None:
        """Its successor does not know for how long they have been idle."""
        clock = Clock([replace(TINY_NOW, ready=5)])
        assert clock.run(OPTIONS.down_delay_s - STEP_S)[-1] == 5
        assert clock.run(2 * STEP_S)[-1] == 1

    def test_devices_that_cannot_be_had_are_replaced_by_others_and_still_asked_for(self) -> None:
        clock = Clock([TINY_NOW, BASE_NOW])
        demand = [Demand(("tiny.en", "base"), 600.0)]
        waits_s = OPTIONS.patience * TINY.cold_start_s
        first = clock.run(waits_s, demand, gone="tiny.en")
        assert first[-1] == 3  # two of tiny.en, and the one that base always has
        assert clock.tick(demand, gone="tiny.en") == {"tiny.en": 2, "base": 4}
        clock.run(1000, demand, gone="tiny.en")
        assert clock.tick(demand, gone="tiny.en") == {"tiny.en": 2, "base": 4}
        clock.tick(demand)  # they come
        assert clock.run(OPTIONS.down_delay_s + STEP_S, demand)[-1] == 3

    def test_what_another_tier_does_not_get_is_not_asked_for_again(self) -> None:
        """base's machines are those that tiny.en waits for: the work goes to large at once."""
        tiny, base = (
            replace(t, facts=replace(t.facts, machine="a T4"), ready=n)
            for t, n in ((TINY_NOW, 0), (BASE_NOW, 1))
        )
        clock = Clock([tiny, base, LARGE_NOW])
        demand = [Demand(("tiny.en", "base", "large"), 600.0)]
        clock.run(OPTIONS.patience * TINY.cold_start_s, demand, gone="tiny.en")
        targets = clock.tick(demand, gone="tiny.en")
        assert targets == {"tiny.en": 2, "base": 1, "large": 7}

    def test_the_part_that_comes_is_counted_on(self) -> None:
        """One of two: 300 of 600 s/s are left for base, at 150 a replica."""
        clock = Clock([replace(TINY_NOW, ready=1), BASE_NOW])
        demand = [Demand(("tiny.en", "base"), 600.0)]
        clock.run(1000, demand, gone="tiny.en")
        assert clock.tick(demand, gone="tiny.en") == {"tiny.en": 2, "base": 2}

    def test_replicas_that_are_late_for_a_rising_load_can_be_had(self) -> None:
        """Another is wanted every 10 s and comes 60 s later: never all are there, and all come."""
        tiny = replace(TINY_NOW, facts=replace(TINY, max_replicas=100))
        memory: Mapping[str, TierMemory] = {}
        targets: list[int] = []
        for now in range(600):
            ready = targets[now - 60] if now >= 60 else 0
            demand = [Demand(("tiny.en", "base"), 300.0 * (1 + now // 10))]
            tiers = (replace(tiny, ready=ready), BASE_NOW)
            plan = decide(tiers, demand, memory, now, OPTIONS)
            memory = plan.memory
            targets.append(replicas(plan)["tiny.en"])
            assert not plan.decisions["tiny.en"].denied
            assert ready < targets[-1]

    def test_a_replica_that_was_lost_and_comes_back_is_no_shortage(self) -> None:
        clock = Clock([replace(TINY_NOW, ready=2), BASE_NOW])
        demand = [Demand(("tiny.en", "base"), 600.0)]
        clock.run(1000, demand)
        clock.tiers[0] = replace(clock.tiers[0], ready=1)
        assert max(clock.run(TINY.cold_start_s, demand, gone="tiny.en")) == 3

    def test_the_reason_says_what_cannot_be_had(self) -> None:
        denied = {"tiny.en": TierMemory(targets=((0.0, 2),), ready=((0.0, 0),))}
        plan = decide((TINY_NOW,), [Demand(("tiny.en",), 600.0)], denied, 1.0, OPTIONS)
        assert plan.decisions["tiny.en"].denied
        assert plan.decisions["tiny.en"].reason.endswith("2 needed; 0 T4 to be had")


@st.composite
def loads(draw: st.DrawFn) -> Load:
    fleet = draw(fleets())
    names = [t.facts.name for t in fleet]
    subsets = st.lists(st.sampled_from(names), min_size=1, unique=True).map(tuple)
    demands = draw(
        st.lists(st.builds(Demand, subsets, st.just(0.0) | st.floats(1e-3, 1e5)), max_size=4)
    )
    return fleet, demands


class TestAlways:
    @given(loads(), st.floats(0.0, 1e6))
    def test_replicas_are_within_what_may_be(self, load: Load, now: float) -> None:
        fleet, demands = load
        found = replicas(decide(fleet, demands, {}, now, OPTIONS))
        for tier in fleet:
            facts = tier.facts
            assert facts.min_replicas <= found[facts.name] <= facts.max_replicas

    @given(loads(), st.integers(0, 5), amounts)
    def test_a_longer_queue_never_costs_a_tier_a_replica(
        self, load: Load, index: int, more_s: float
    ) -> None:
        fleet, demands = load
        index %= len(fleet)
        longer = list(fleet)
        longer[index] = replace(fleet[index], queued_s=fleet[index].queued_s + more_s)
        name = fleet[index].facts.name
        before = replicas(decide(fleet, demands, {}, 0.0, OPTIONS))
        after = replicas(decide(longer, demands, {}, 0.0, OPTIONS))
        assert after[name] >= before[name]

    @given(loads())
    def test_a_steady_load_leads_to_steady_replicas(self, load: Load) -> None:
        """Whatever the beginning: once what is decided is there, it is decided again."""
        fleet, demands = load
        clock = Clock([replace(t, queued_s=0.0, batch_s=0.0) for t in fleet])
        clock.tick(demands)
        # Long enough that what there was at first is forgotten.
        clock.tick(demands, step_s=OPTIONS.zero_delay_s + 1)
        settled = clock.tick(demands)
        for _ in range(5):
            assert clock.tick(demands) == settled

    @given(
        st.floats(1e-3, 1e5),
        st.lists(st.floats(0.0, 1.0), min_size=2, max_size=10),
        st.floats(0.01, 0.5),
    )
    def test_a_load_within_the_margin_never_takes_a_replica_back(
        self, rate: float, wiggles: list[float], margin: float
    ) -> None:
        """However long each of its levels lasts."""
        tiny = replace(TINY_NOW, facts=replace(TINY, max_replicas=1000))
        clock = Clock([tiny], replace(OPTIONS, down_margin=margin))
        targets = []
        for wiggle in wiggles:
            level = rate * (1 - margin * wiggle)
            clock.tick([Demand(("tiny.en",), level)], step_s=OPTIONS.down_delay_s + 1)
            targets += clock.tick([Demand(("tiny.en",), level)]).values()
        assert targets == sorted(targets)

    @given(loads(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
    def test_nothing_grows_beyond_what_is_needed(self, load: Load, shares: list[float]) -> None:
        """Without the margin and the delays that is what is decided."""
        fleet, demands = load
        bare = replace(OPTIONS, down_margin=0.0, down_delay_s=0.0, zero_delay_s=0.0)
        clock = Clock([replace(t, queued_s=0.0, batch_s=0.0, ready=0) for t in fleet])
        before = {t.facts.name: 0 for t in fleet}
        for share in shares:
            now = [replace(d, rate=d.rate * share) for d in demands]
            needed = replicas(decide(clock.tiers, now, {}, 0.0, bare))
            targets = clock.tick(now, step_s=30.0)
            for name, target in targets.items():
                assert target <= max(needed[name], before[name])
            before = targets

    @given(fleets())
    def test_without_work_all_drains(self, fleet: tuple[TierState, ...]) -> None:
        clock = Clock(fleet)
        clock.tick()
        clock.tiers = [replace(t, queued_s=0.0, batch_s=0.0) for t in clock.tiers]
        clock.tick()
        last = clock.tick(step_s=OPTIONS.zero_delay_s + 1)
        assert last == {t.facts.name: t.facts.min_replicas for t in fleet}

    @given(loads())
    def test_what_is_arriving_is_served_where_it_can_be(self, load: Load) -> None:
        """However replicas are given up to save money, those that can do a demand are enough for
        it, or all that there may be."""
        fleet, demands = load
        fleet = [replace(t, queued_s=0.0, batch_s=0.0) for t in fleet]
        found = replicas(decide(fleet, demands, {}, 0.0, OPTIONS))
        for demand in demands:
            able = [t for t in fleet if t.facts.name in demand.tiers]
            could = sum(t.facts.max_replicas * t.rtfx for t in able) * OPTIONS.utilization
            does = sum(found[t.facts.name] * t.rtfx for t in able) * OPTIONS.utilization
            assert does >= min(demand.rate, could) * (1 - 1e-6)

    @given(loads(), st.integers(1, 40))
    def test_what_is_remembered_is_bounded(self, load: Load, n_ticks: int) -> None:
        fleet, demands = load
        clock = Clock(fleet)
        for tick in range(n_ticks):
            share = 1 - tick / n_ticks
            clock.tick([replace(d, rate=d.rate * share) for d in demands])
            for tier in fleet:
                memory = clock.memory[tier.facts.name]
                bound = max(tier.facts.max_replicas, tier.ready) + 1
                for pairs in (memory.needs, memory.targets, memory.ready):
                    assert len(pairs) <= bound

    def test_the_work_is_bounded(self) -> None:
        """A hundred tiers and demands of all kinds, in as many assignments as are allowed."""
        fleet = [
            replace(TINY_NOW, facts=replace(TINY, name=f"t{i}", usd_per_hour=1.0 + i % 7))
            for i in range(100)
        ]
        demands = [Demand(tuple(f"t{j}" for j in range(i, 100)), 900.0) for i in range(0, 100, 5)]
        found = replicas(decide(fleet, demands, {}, 0.0, OPTIONS))
        assert sum(found.values()) >= math.ceil(20 * 900.0 / (400.0 * OPTIONS.utilization))
