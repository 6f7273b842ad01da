"""What an ingress takes on, and what it refuses."""

import pytest

from deployments.entrance.admission import Admission
from deployments.errors import OverloadedError


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_counted_while_they_run() -> None:
    admission = Admission(2, 100.0)
    with admission.admit("a"), admission.admit("b"):
        with pytest.raises(OverloadedError, match="2 requests"):
            admission.admit("a")
    ticket = admission.admit()
    ticket.close()
    ticket.close()
    with admission.admit(), admission.admit():
        pass


def test_audio_counts_from_its_declaration_until_it_is_transcribed() -> None:
    admission = Admission(10, 100.0)
    with admission.admit("a") as first, admission.admit("b") as second:
        first.declare(60.0)
        assert admission.queued_s("a") == 60.0 and admission.queued_s("b") == 0.0
        with pytest.raises(OverloadedError, match="60 s of audio"):
            second.declare(41.0)
        assert admission.queued_s("b") == 0.0
        second.declare(40.0)
        first.update(30.0, 30.0)
        assert admission.queued_s("a") == 60.0, "read, and not transcribed yet"
        first.update(30.0, 5.0)
        assert admission.queued_s("a") == 35.0
        first.update(60.0, 0.0)
        assert admission.queued_s("a") == 0.0
        first.update(65.0, 0.0)
        assert admission.queued_s("a") == 0.0, "longer than declared"
    assert admission.queued_s("b") == 0.0, "gone with the request"


def test_audio_of_unknown_length_counts_as_it_is_read() -> None:
    admission = Admission(10, 100.0)
    with admission.admit("a") as ticket:
        ticket.update(120.0, 100.0)
        with pytest.raises(OverloadedError, match="100 s"):
            admission.admit()


def test_a_file_longer_than_the_bound_has_its_turn_when_nothing_else_is_queued() -> None:
    admission = Admission(10, 100.0)
    with admission.admit("a") as long:
        long.declare(500.0)
        with pytest.raises(OverloadedError):
            admission.admit()


def test_when_to_come_back_follows_from_the_speed() -> None:
    clock = Clock()
    admission = Admission(1, 600.0, clock)

    def told() -> float:
        with pytest.raises(OverloadedError) as caught:
            admission.admit()
        return caught.value.retry_after_s

    with admission.admit("a") as ticket:
        assert told() == 60.0, "nothing is known of the speed yet"
        ticket.declare(600.0)
        ticket.update(600.0, 0.0)  # 600 s in the last minute: 10 a second, and 60 s are wanted
        assert told() == pytest.approx(6.0)
        clock.now += 61.0
        assert told() == 60.0


def test_the_error_crosses_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(OverloadedError("overloaded: much", 7.5)))
    assert error.retry_after_s == 7.5 and str(error) == "overloaded: much"
