"""Windows: every clip once an epoch, within 30 s, the same however one comes to them."""

import numpy as np
import pytest

from engine import N_SAMPLES
from training.recordings import Clip
from training.settings import AugmentSettings, WindowSettings
from training.windows import MAX_CONTENT_TOKENS, Window, Windows


def _clips(seconds: list[float], languages: str = "en") -> list[Clip]:
    names = [languages.split(",")[n % len(languages.split(","))] for n in range(len(seconds))]
    return [
        Clip(f"m:{n}", 0, round(s * 16_000), language, f"text {n}", (), None)
        for n, (s, language) in enumerate(zip(seconds, names, strict=True))
    ]


def _epoch(windows: Windows, epoch: int) -> list[Window]:
    found, number = [], 0
    while windows.epoch_of(number) <= epoch:
        if windows.epoch_of(number) == epoch:
            found.append(windows[number])
        number += 1
    return found


@pytest.mark.parametrize("packed", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("speed", [0.0, 0.1])
def test_an_epoch_has_every_clip_once_and_no_window_overflows(packed: float, speed: float) -> None:
    rng = np.random.default_rng(1)
    clips = _clips([*rng.uniform(0.5, 12, 60), 30.0, 29.0, 28.0], "en,es")
    counts = [int(n) for n in rng.integers(3, 60, len(clips))]
    windows = Windows(
        clips, counts, WindowSettings(packed=packed), AugmentSettings(speed=speed), seed=3
    )
    for epoch in range(3):
        used = []
        for window in _epoch(windows, epoch):
            end = 0
            for placed in window.clips:
                assert placed.first >= end
                end = placed.first + placed.n_samples(clips[placed.clip])
                assert 1 - speed <= placed.speed <= 1 + speed or len(window.clips) == 1
            assert end <= N_SAMPLES
            assert len({clips[placed.clip].language for placed in window.clips}) == 1
            n_tokens = sum(counts[placed.clip] for placed in window.clips)
            assert n_tokens <= MAX_CONTENT_TOKENS or len(window.clips) == 1
            used += [placed.clip for placed in window.clips]
        assert sorted(used) == list(range(len(clips)))


def test_a_window_does_not_depend_on_those_asked_for_before() -> None:
    clips = _clips([2.0] * 40)
    arguments = (clips, [10] * 40, WindowSettings(), AugmentSettings(speed=0.1), 7)
    in_order, anywhere = Windows(*arguments), Windows(*arguments)
    expected = [in_order[number] for number in range(100)]
    order = np.random.default_rng(0).permutation(100)
    assert [anywhere[int(number)] for number in order] == [expected[number] for number in order]
    other = Windows(*arguments[:4], 8)
    assert [other[number] for number in range(10)] != expected[:10]


def test_shares_are_kept() -> None:
    clips = _clips([2.0] * 1000)
    chosen = WindowSettings(timestamps=0.7, previous_text=0.2, packed=0.0)
    windows = Windows(clips, [10] * 1000, chosen, AugmentSettings(), 0)
    drawn = _epoch(windows, 0)
    assert len(drawn) == 1000
    assert sum(window.timestamps for window in drawn) / 1000 == pytest.approx(0.7, abs=0.05)
    assert sum(window.tells_previous for window in drawn) / 1000 == pytest.approx(0.2, abs=0.05)
    for window in drawn:
        assert (window.previous is not None) == window.tells_previous
        assert window.previous != window.clips[0].clip
