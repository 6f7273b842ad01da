"""Replicas of a machine share the cores that are idle."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.replicas.idle_cores import IdleCores, board_path, usable_cores
from engine import (
    Checkpoint,
    CrossAttentionMode,
    DecodingOptions,
    Engine,
    EngineConfig,
    Precision,
    Request,
    Window,
)
from tests.conftest import MODELS
from tests.support.running import run


class Machine:
    """Eight cores, and a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "cores"
        self.now_ns = 1
        self.threads: list[int] = []

    def replica(self, own: int, most: int) -> tuple[IdleCores, list[int]]:
        """One, and the numbers of threads that it was told."""
        told: list[int] = []
        return IdleCores(own, most, told.append, self._path, 8, lambda: self.now_ns), told


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_who_works_alone_has_all_that_it_may_have(machine: Machine) -> None:
    (one, told), (other, _) = machine.replica(1, 16), machine.replica(2, 3)
    one.working(is_few=True)
    assert told == [8]
    one.resting()
    other.working(is_few=True)
    one.working(is_few=True)
    assert told == [8, 3]  # 1 of its own, and half of 8 - 1 - 2


def test_who_has_much_to_do_keeps_to_its_own(machine: Machine) -> None:
    one, told = machine.replica(1, 8)
    one.working(is_few=False)
    assert told == []
    one.working(is_few=True)
    one.working(is_few=True)
    one.working(is_few=False)
    assert told == [8, 1]


def test_all_together_never_take_more_than_there_are(machine: Machine) -> None:
    replicas = [machine.replica(1, 8) for _ in range(5)]
    for _ in range(2):  # in the first round each knows those before it only
        for cores, _ in replicas:
            cores.working(is_few=True)
    assert sum(told[-1] if told else 1 for _, told in replicas) <= 8
    many = [machine.replica(1, 8) for _ in range(20)]
    for cores, _ in replicas + many:
        cores.working(is_few=True)
    for cores, told in replicas + many:
        cores.working(is_few=True)
        assert not told or told[-1] == 1


def test_who_hangs_or_closes_does_not_count(machine: Machine) -> None:
    (one, told), (hung, _), (closed, _) = (machine.replica(1, 8) for _ in range(3))
    hung.working(is_few=True)
    closed.working(is_few=True)
    closed.close()
    one.working(is_few=True)
    assert told == [4]
    machine.now_ns += 60 * 10**9
    one.working(is_few=True)
    assert told == [4, 8]


def _claim_and_die(path: Path) -> None:
    IdleCores(3, 3, print, path, 8).working(is_few=True)
    os._exit(0)


def test_the_entry_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    path, context = tmp_path / "cores", multiprocessing.get_context("fork")
    process = context.Process(target=_claim_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    told: list[int] = []
    one = IdleCores(1, 8, told.append, path, 8)
    one.working(is_few=True)
    assert told == [8]  # beside the dead one's entry there would be 3


def test_a_full_file_is_refused(machine: Machine) -> None:
    kept = [machine.replica(1, 1) for _ in range(256)]
    with pytest.raises(OSError, match="all 256 entries are taken"):
        machine.replica(1, 1)
    kept[7][0].close()
    machine.replica(1, 1)


def test_a_link_that_somebody_laid_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "cores").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        IdleCores(1, 2, print, tmp_path / "cores")
    assert not (tmp_path / "elsewhere").exists()


def test_the_file_is_ones_own() -> None:
    assert str(os.getuid()) in board_path().name


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("150000 100000\n", 1), ("50000 100000\n", 1), ("odd\n", None)],
)
def test_cores_of_a_container(text: str, cores: int | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    everything = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path / "cpu.max") == (everything if cores is None else cores)
    assert usable_cores(tmp_path / "absent") == everything


CONFIGS = {
    "int8": EngineConfig(precision=Precision.INT8),
    "bfloat16": EngineConfig(precision=Precision.BFLOAT16),
    "int8, absorbed, short": EngineConfig(
        precision=Precision.INT8,
        cross_attention=CrossAttentionMode.ABSORBED,
        window=Window.SHORT,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_number_of_threads_changes_no_bit(
    name: str, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """Also if it changes between steps."""
    few = DecodingOptions(language="en", max_new_tokens=12)
    requests = [Request(key, pcm[:96_000], few) for key, pcm in list(clips.items())[:3]]
    engine = Engine(checkpoints[MODELS[0]], CONFIGS[name])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results = run(engine, requests)
            found.append(
                {k: (r.tokens, r.avg_logprob, r.no_speech_prob) for k, r in results.items()}
            )
        for request in requests:
            engine.add_request(request)
        results, step = {}, 0
        while engine.has_unfinished:
            torch.set_num_threads(1 + step % 3)
            results |= {result.request_id: result for result in engine.step()}
            step += 1
        found.append({k: (r.tokens, r.avg_logprob, r.no_speech_prob) for k, r in results.items()})
    finally:
        torch.set_num_threads(before)
    assert all(each == found[0] for each in found)
