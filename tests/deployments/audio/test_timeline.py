"""A file's clock over its samples: gaps, jitter, drift, resets, strays."""

import numpy as np
import pytest

from deployments.audio.timeline import MAX_GAP_S, Step, Timeline

RATE = 48_000
FRAME = 960  # 20 ms


def lay(stamps: list[int | None], lead: int = 0, n_samples: int = FRAME) -> list[Step]:
    """The steps for frames of one length."""
    timeline = Timeline(RATE, lead)
    for stamp in stamps:
        timeline.add(stamp, n_samples)
    timeline.finish()
    steps = []
    while (step := timeline.pop()) is not None:
        steps.append(step)
    assert timeline.position == sum(step.silence + step.n_out for step in steps)
    assert sum(step.n_in for step in steps) == len(stamps) * n_samples, "no sound is ever dropped"
    return steps


def counted(n_frames: int, start: int = 0) -> list[int]:
    return [start + FRAME * index for index in range(n_frames)]


def plain(n_frames: int) -> Step:
    return Step(0, n_frames * FRAME, n_frames * FRAME)


class TestPlain:
    def test_exact_stamps_change_nothing(self) -> None:
        assert lay(counted(500, start=-312)) == [plain(500)]

    def test_no_stamps_change_nothing(self) -> None:
        assert lay([None] * 500) == [plain(500)]

    @pytest.mark.parametrize("unit_s", [1 / 1_000, 1 / 90_000])
    def test_rounded_stamps_change_nothing(self, unit_s: float) -> None:
        stamps = [round(round(at / RATE / unit_s) * unit_s * RATE) for at in counted(3_000)]
        assert lay(stamps) == [plain(3_000)]

    @pytest.mark.parametrize("jitter_s", [0.005, 0.012, 0.025])
    def test_scattered_stamps_change_nothing(self, jitter_s: float) -> None:
        noise = np.random.default_rng(0).uniform(-jitter_s, jitter_s, 3_000) * RATE
        assert lay([at + round(off) for at, off in zip(counted(3_000), noise, strict=True)]) == [
            plain(3_000)
        ]

    def test_stamps_that_alternate_as_those_of_vorbis_change_nothing(self) -> None:
        stamps = [at + (0, 384, 0, -384)[index % 4] for index, at in enumerate(counted(2_000))]
        assert lay(stamps) == [plain(2_000)]

    def test_a_lead_comes_first(self) -> None:
        assert lay(counted(5), lead=4_800) == [Step(4_800, 0, 0), plain(5)]


class TestGaps:
    @pytest.mark.parametrize("gap", [480, FRAME, 13 * RATE, 1_800 * RATE])
    def test_a_gap_is_silence_where_it_was(self, gap: int) -> None:
        stamps = counted(100) + counted(100, start=100 * FRAME + gap)
        assert lay(stamps) == [plain(100), Step(gap, 0, 0), plain(100)]

    def test_many_lost_packets_each_at_its_place(self) -> None:
        kept = [at for index, at in enumerate(counted(1_000)) if index % 50 != 49]
        steps = lay(kept)
        assert steps == [plain(49), Step(FRAME, 0, 0)] * 19 + [plain(49)]

    def test_pauses_between_short_bursts(self) -> None:
        """Of discontinuous transmission: the next burst is within sight, and has its own pause."""
        stamps = [at for burst in range(20) for at in counted(10, start=burst * 5 * RATE)]
        steps = lay(stamps)
        assert steps == [plain(10), Step(5 * RATE - 10 * FRAME, 0, 0)] * 19 + [plain(10)]

    def test_a_gap_in_jitter_is_as_long_as_it_was(self) -> None:
        noise = np.random.default_rng(1).uniform(-200, 200, 400)
        exact = counted(200) + counted(200, start=200 * FRAME + RATE)
        steps = lay([at + round(off) for at, off in zip(exact, noise, strict=True)])
        [gap] = [step.silence for step in steps if step.silence]
        assert gap == pytest.approx(RATE, abs=200)

    def test_the_gap_is_told(self) -> None:
        timeline = Timeline(RATE)
        for stamp in [0, FRAME, 50 * FRAME]:
            timeline.add(stamp, FRAME)
        timeline.finish()
        assert timeline.gaps == [(2 * FRAME, 50 * FRAME)]


class TestWildClocks:
    @pytest.mark.parametrize(
        "jump_s", [MAX_GAP_S + 1, 20 * 3600, -3, -93_450, -(2**33) / 90_000, 2**32 / 1_000]
    )
    def test_a_reset_or_a_leap_neither_stretches_nor_drops(self, jump_s: float) -> None:
        stamps = counted(100) + counted(100, start=100 * FRAME + round(jump_s * RATE))
        assert lay(stamps) == [plain(200)]

    def test_gaps_behind_a_reset_still_count(self) -> None:
        later = counted(50, start=50 * FRAME + RATE)
        steps = lay(counted(100, start=5_000 * RATE) + counted(50) + later)
        assert steps == [plain(150), Step(RATE, 0, 0), plain(50)]

    @pytest.mark.parametrize("off_s", [-50, -1, 1, 500, 50_000])
    def test_a_stray_stamp_is_ignored(self, off_s: float) -> None:
        stamps = counted(200)
        stamps[100] += round(off_s * RATE)
        assert lay(stamps) == [plain(200)]

    def test_what_was_covered_counts_leaps_that_were_not_believed(self) -> None:
        timeline = Timeline(RATE)
        for stamp in [*counted(10), 7_200 * RATE]:
            timeline.add(stamp, FRAME)
        timeline.finish()
        assert timeline.covered == 7_200 * RATE + FRAME
        assert timeline.position == 11 * FRAME

    def test_frames_that_all_jump_are_all_there(self) -> None:
        stamps = np.random.default_rng(2).integers(-(2**40), 2**40, 5_000)
        lay([int(stamp) for stamp in stamps], n_samples=1)


class TestDrift:
    @pytest.mark.parametrize("ppm", [-800, -300, 300, 800])
    def test_it_is_followed_without_holes(self, ppm: int) -> None:
        n_frames = 90_000  # half an hour
        stamps = [round(at * (1 + ppm * 1e-6)) for at in counted(n_frames)]
        steps = lay(stamps)
        assert not any(step.silence for step in steps)
        assert max(abs(step.n_out - step.n_in) for step in steps) <= 3, "0.25 % of a frame"
        end = sum(step.n_out for step in steps)
        assert abs(end - stamps[-1] - FRAME) <= 0.02 * RATE

    def test_a_small_jump_back_is_smoothed(self) -> None:
        stamps = counted(100) + counted(10_000, start=100 * FRAME - RATE // 5)
        steps = lay(stamps)
        assert not any(step.silence for step in steps)
        assert sum(step.n_out for step in steps) == pytest.approx(stamps[-1] + FRAME, abs=1_000)
