"""Tilings of GPU kernels: all give the same bits, the fastest is taken, and choices are kept."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from engine.cache_folder import cache_folder
from engine.kernels import triton as package
from engine.kernels.triton import tuned_shapes, tuner
from engine.kernels.triton.calls import GpuKernels
from engine.kernels.triton.choice_file import ChoiceFile
from engine.kernels.triton.launch import Launch
from engine.kernels.triton.layers import few_rows_linear
from engine.kernels.triton.tiling import Choice, Tiling, Trial
from engine.kernels.triton.tuner import Tuner, fastest
from engine.kernels.triton.weights import Weight
from engine.model.cross_cache import DenseCrossCache
from engine.precision import Arithmetic, Precision

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALF = torch.float16
WIDTH, DEPTH = 64, 256


def zeros(*shape: int, of: torch.dtype = HALF) -> torch.Tensor:
    return torch.zeros(shape, dtype=of, device=DEVICE)


def weights() -> Iterator[Weight]:
    yield Weight(zeros(WIDTH, DEPTH))
    yield Weight(zeros(WIDTH, DEPTH, of=torch.int8), zeros(WIDTH))
    yield Weight(zeros(WIDTH, DEPTH // 2, of=torch.uint8), zeros(WIDTH, DEPTH // 64, 2), 64)


def choices() -> Iterator[Choice]:
    for weight in weights():
        yield from tuned_shapes.products(weight, HALF)
    for stored in (HALF, torch.int8):
        yield from tuned_shapes.self_attention(zeros(1, 1, 80, 64, of=stored), HALF)
        yield from tuned_shapes.cross_attention(zeros(1, 1, 70, 64, of=stored), HALF)
    yield from tuned_shapes.absorbed_attention(zeros(1, 40, 64), 3)


CHOICES = {choice.name: choice for choice in choices()}


def test_each_class_of_shapes_has_a_name_of_its_own() -> None:
    assert len(CHOICES) == len(list(choices()))
    assert {name.split()[0] for name in CHOICES} == {"Product", "Attention", "Absorbed"}


MORE = [name for name in CHOICES if name.startswith(("Product 32", "Product 64"))]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.more if name in MORE else ()) for name in CHOICES]
)
def test_every_tiling_gives_the_bits_of_the_first(name: str) -> None:
    choice = CHOICES[name]
    assert len(choice.tilings) > 1
    trial = choice.trial()
    first, *others = (tuner._bits(trial, tiling) for tiling in choice.tilings)
    assert all(torch.equal(first, other) for other in others)
    values = trial.out.float()
    assert values.isfinite().all() and values.std() > 0


def clock(fast: Tiling) -> Callable[[Launch], float]:
    """A clock by which one tiling is the fastest."""

    def seconds(launch: Launch) -> float:
        stages = launch.constants.get("STAGES", launch.num_stages)
        is_fast = (
            stages == fast.stages and launch.constants.get("BLOCK_N", fast.block) == fast.block
        )
        return 0.5 if is_fast else 1.0

    return seconds


@pytest.mark.parametrize("kind", ["Product", "Attention", "Absorbed"])
def test_the_fastest_is_chosen(kind: str) -> None:
    choice = next(CHOICES[name] for name in CHOICES if name.startswith(kind))
    for tiling in choice.tilings:
        found = fastest(choice.name, choice.tilings, choice.trial(), clock(tiling))
        assert found == tiling
    usual = fastest(choice.name, choice.tilings, choice.trial(), lambda launch: 1.0)
    assert usual == choice.tilings[0], "of equally fast ones"


def test_other_bits_and_faults_are_not_chosen(caplog: pytest.LogCaptureFixture) -> None:
    """The second tiling is launched on other numbers, the third cannot be launched."""
    choice = next(iter(CHOICES.values()))
    right, first, wrong, broken = choice.trial(), *choice.tilings[:3]

    def launch(tiling: Tiling) -> Launch:
        if tiling == broken:
            raise RuntimeError("out of resource: shared memory")
        made = right.launch(tiling)
        if tiling == wrong:
            made.arguments["x"].add_(1)
        return made

    tilings = choice.tilings[:3]
    found = fastest("a product", tilings, Trial(launch, right.out), clock(wrong))
    assert found == first
    assert "gives other bits" in caplog.text


def of_path(path: Path) -> ChoiceFile:
    return ChoiceFile(path, {"gpu": "none", "kernels": "1"})


def tuner_of(path: Path, fast: Tiling) -> Tuner:
    return Tuner(DEVICE, of_path(path), clock(fast))


def test_a_choice_is_kept_for_the_next_start(tmp_path: Path) -> None:
    choice = next(iter(CHOICES.values()))
    path, fast = tmp_path / "a" / "choices.json", choice.tilings[1]
    first = tuner_of(path, fast)
    first.settle([choice])
    assert first.tilings == {choice.of: fast} == dict(first.tilings)
    assert of_path(path).read() == {choice.name: fast}

    def never(launch: Launch) -> float:
        raise AssertionError("it is known")

    second = Tuner(DEVICE, of_path(path), never)
    second.settle([choice])
    second.settle([choice])
    assert second.tilings == first.tilings
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\x00\xff",
        '{"about": {"gpu": "another"}, "choices": {}}',
        '{"about": {"gpu": "none", "kernels": "1"}}',
        '{"about": {"gpu": "none", "kernels": "1"}, "choices": {"a": [1, 2, 3]}}',
        '{"about": {"gpu": "none", "kernels": "1"}, "choices": {"a": ["1", true]}}',
    ],
)
def test_a_bad_file_is_a_warning_and_replaced(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "choices.json"
    path.write_text(text)
    choice = next(iter(CHOICES.values()))
    tuner_of(path, choice.tilings[1]).settle([choice])
    assert caplog.text.count("cannot be used") == 1
    assert of_path(path).read() == {choice.name: choice.tilings[1]}


def test_a_file_that_is_no_text_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "choices.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert of_path(path).read() == {} and "cannot be used" in caplog.text


def test_a_tiling_that_is_none_of_the_kernels_is_measured_again(tmp_path: Path) -> None:
    path, choice = tmp_path / "choices.json", next(iter(CHOICES.values()))
    of_path(path).add({choice.name: Tiling(7, 99)})
    found = tuner_of(path, choice.tilings[1])
    found.settle([choice])
    assert found.tilings == {choice.of: choice.tilings[1]}


def test_a_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    choice = next(iter(CHOICES.values()))
    found = tuner_of(tmp_path / "file" / "choices.json", choice.tilings[1])
    found.settle([choice])
    assert found.tilings == {choice.of: choice.tilings[1]}
    assert "cannot be written" in caplog.text


def add_many(path: Path, who: int) -> None:
    for number in range(40):
        of_path(path).add({f"{who} {number}": Tiling(who, number)})


def test_processes_may_write_at_once(tmp_path: Path) -> None:
    """The file is whole whenever it is read; one may undo what the other adds meanwhile."""
    path = tmp_path / "choices.json"
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        done = [pool.submit(add_many, path, who) for who in range(2)]
        while not all(future.done() for future in done):
            if path.exists():
                json.loads(path.read_text())
        for future in done:
            future.result()
    found = of_path(path).read()
    assert found.get("0 39") == Tiling(0, 39) or found.get("1 39") == Tiling(1, 39)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_is_over_the_budget_stays_as_it_is(tmp_path: Path) -> None:
    found = tuner_of(tmp_path / "choices.json", next(iter(CHOICES.values())).tilings[1])
    found.budget_s = 0.0
    found.settle(CHOICES.values())
    assert not found.tilings and not list(tmp_path.iterdir())


def test_a_captured_graph_is_not_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice, is_capturing = next(iter(CHOICES.values())), True
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: is_capturing)
    fast = clock(choice.tilings[1])
    found = Tuner(torch.device("cuda"), of_path(tmp_path / "choices.json"), fast)
    found.settle([choice])
    assert not found.tilings
    is_capturing = False
    found.settle([choice])
    assert found.tilings


def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    seen: list[Launch] = []
    run = Launch.run

    def spy(launch: Launch) -> None:
        seen.append(launch)
        run(launch)

    monkeypatch.setattr(Launch, "run", spy)
    return seen


def test_layers_are_launched_as_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded is what a step asks for; more rows have a choice of their own."""
    monkeypatch.setattr(tuned_shapes, "_ROWS", (16,))
    fast = Tiling(64, 4)
    kernels = GpuKernels.on(DEVICE).tuned_by(tuner_of(tmp_path / "choices.json", fast))
    formats = Precision.FLOAT16.formats(Arithmetic.of(torch.device("cpu")))
    layer = few_rows_linear(torch.randn(WIDTH, DEPTH).to(DEVICE, HALF), None, formats, kernels)
    assert layer is not None
    seen = launched(monkeypatch)
    for rows in (1, 20):
        layer(torch.randn(rows, DEPTH).to(DEVICE, HALF))
    assert [launch.constants["BLOCK_N"] for launch in seen] == [64, 16]
    assert [launch.constants["BLOCK_M"] for launch in seen] == [16, 32]


def test_windows_are_attended_to_as_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = GpuKernels.on(DEVICE).tuned_by(tuner_of(tmp_path / "choices.json", Tiling(64, 3)))
    monkeypatch.setattr("engine.model.cross_cache.gpu_kernels", lambda device: kernels)
    cache = DenseCrossCache((1, 1, 70, 64), DEVICE, HALF)
    seen = launched(monkeypatch)
    cache.attend(zeros(1, 1, 64), slice(0, 1))
    assert seen[0].constants["STAGES"] == 3


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_variable_turns_tuning_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(package.TUNE_VARIABLE, value)
    monkeypatch.setattr("engine.kernels.triton.trial.fault", lambda kernels, device: None)
    monkeypatch.setattr(ChoiceFile, "of", lambda device: of_path(Path("nowhere")))
    package._trusted.cache_clear()
    try:
        kernels = package._trusted(DEVICE)
    finally:
        package._trusted.cache_clear()
    assert kernels is not None and (kernels.tuner is None) == (value == "0")


def test_a_file_for_each_gpu_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR_CACHE", str(tmp_path))
    cuda = torch.device("cuda")
    paths = set()
    for gpu, capability in (("NVIDIA L4", (8, 9)), ("NVIDIA L40S", (8, 9)), ("NVIDIA L4", (9, 0))):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, gpu=gpu: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, of=capability: of)
        paths.add(ChoiceFile.of(cuda).path)
    assert len(paths) == 3 and {path.parent for path in paths} == {tmp_path / "triton"}


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MURMUR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "murmur"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "murmur"
    monkeypatch.setenv("MURMUR_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
