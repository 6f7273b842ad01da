"""Complaints of the decoder and the gaps that explain them."""

from deployments.audio.damage import DamageList
from deployments.audio.report import AudioReport


def told(damages: DamageList) -> list[tuple[float | None, float | None, str]]:
    report = AudioReport()
    damages.tell(report)
    return [(each.start_s, each.end_s, each.message) for each in report.warnings]


def test_a_gap_explains_the_complaint_before_it_and_no_older_one() -> None:
    damages = DamageList()
    damages.add_complaint(10.0)
    damages.add_complaint(100.0)
    assert damages.explains(100.0)
    damages.add_gap(100.0, 100.1)
    assert not damages.explains(200.0), "the pause there is one"
    (gap, unplaced) = told(damages)
    assert gap[:2] == (100.0, 100.1)
    assert unplaced[:2] == (None, None) and "near 10 s" in unplaced[2]


def test_a_complaint_at_the_end_tells_a_cut_whatever_came_before() -> None:
    damages = DamageList()
    damages.add_complaint(10.0)
    assert not damages.take_complaint_near(200.0)
    damages.add_complaint(199.0)
    assert damages.take_complaint_near(200.0)
    (unplaced,) = told(damages)
    assert "near 10 s" in unplaced[2]


def test_a_hint_explains_a_gap_nearby_and_is_not_told_alone() -> None:
    damages = DamageList()
    damages.add_hint(10.0)
    assert damages.explains(10.0) and not damages.explains(20.0)
    assert not damages.take_complaint_near(10.0)
    assert told(damages) == []


def test_many_faults_are_few_warnings() -> None:
    damages = DamageList()
    for near_s in range(0, 1_000, 2):
        damages.add_complaint(float(near_s))
    for start_s in range(1_000, 2_000, 10):
        damages.add_complaint(float(start_s))
        damages.add_gap(start_s, start_s + 0.1)
    assert len(told(damages)) <= 17
