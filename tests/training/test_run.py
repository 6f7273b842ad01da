"""A whole run on a small model: it learns, it can be killed, and its result is served."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine import (
    DecodingOptions,
    Engine,
    EngineConfig,
    Request,
    WeightsError,
    open_checkpoint,
)
from tests.support.running import run_alone
from training.checkpoints import RunFiles
from training.errors import TrainingError
from training.export import read_origin
from training.model import Learner
from training.run import Outcome, Run
from training.settings import FinetuneSettings
from training.workers import finetune
from training.world import World

CPU = torch.device("cpu")
Make = Callable[..., FinetuneSettings]


def go(settings: FinetuneSettings, stop_after: int | None = None) -> Outcome:
    """A run in this process, that is asked to stop after so many of its steps."""
    n_asked = 0

    def stop() -> bool:
        nonlocal n_asked
        n_asked += 1
        return n_asked == stop_after

    return Run(settings, World(CPU), lambda _: None, stop).go()


def losses(settings: FinetuneSettings) -> list[float]:
    return [r["loss"] for r in RunFiles(settings).read_history() if r["kind"] == "step"]


def test_it_learns(settings: Make) -> None:
    made = settings(steps=12, checkpoint_every=12, optimiser={"learning_rate": 1e-2, "warmup": 0.1})
    outcome = go(made)
    found = losses(made)
    assert outcome.finished and outcome.step == len(found) == 12
    assert sum(found[-3:]) < 0.8 * sum(found[:3])
    assert (made.output / "curves.svg").exists() and (made.output / "curves.png").exists()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_that_stops_and_is_killed_ends_as_one_that_does_not(
    settings: Make, tmp_path: Path, method: str
) -> None:
    lora = {"rank": 4, "dropout": 0.2, "layers": ["q_proj", "fc1"]}
    values = {"method": method, "lora": lora, "steps": 6}
    whole = settings(**values)
    go(whole)
    cut = settings(**values, output=str(tmp_path / "cut"))
    assert not go(cut, stop_after=1).finished
    # What a loss of power leaves: steps in the history, and half a checkpoint, that no one saved.
    files = RunFiles(cut)
    files.append_history({"kind": "step", "step": 2, "loss": 9.0, "grad_norm": 1.0, "rate": 0.1})
    with files.history.open("a") as history:
        history.write('{"kind": "st')
    (cut.output / "checkpoints" / "00000002.1.partial").mkdir()
    assert not go(cut, stop_after=2).finished
    outcome = go(cut)
    assert outcome.finished
    assert losses(cut) == losses(whole) and len(losses(cut)) == 6
    ours, theirs = (load_file(each.output / "model/model.safetensors") for each in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_only_what_changes_nothing_may_change_on_the_way(settings: Make) -> None:
    go(settings(), stop_after=1)
    with pytest.raises(TrainingError, match=r"other settings \(optimiser, seed\)"):
        go(settings(seed=1, optimiser={"learning_rate": 1e-4}))
    with pytest.raises(TrainingError, match=r"batch_size \* accumulate \* workers"):
        go(settings(accumulate=3))
    assert go(settings(batch_size=2, accumulate=1, checkpoint_every=1)).finished


def test_the_result_is_what_was_learnt(
    settings: Make, clips: dict[str, np.ndarray], small_model: Path
) -> None:
    made = settings(method="lora", lora={"rank": 4}, licence="CC0-1.0")
    outcome = go(made)
    assert outcome.model is not None
    checkpoint = open_checkpoint(str(outcome.model))
    learner = Learner(open_checkpoint(made.model), made, CPU).eval()
    saved = RunFiles(made).load()
    assert saved is not None
    learner.load_learnt(saved.weights)
    # The written folder, and additions beside the weights that they began with.
    mel, tokens = torch.randn(1, 80, 3000), torch.randint(0, 50_000, (1, 12))
    merged = Learner(checkpoint, settings(), CPU).eval()
    base = Learner(open_checkpoint(made.model), settings(), CPU).eval()
    with torch.no_grad():
        ours, theirs, before = (
            float(each(mel, tokens, tokens)) for each in (merged, learner, base)
        )
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert abs(before - theirs) > 1e-3
    result = run_alone(Engine(checkpoint, EngineConfig()), Request("a", clips["librivox-0880.wav"]))
    assert result.tokens
    origin = read_origin(outcome.model)
    assert origin["trained_from"]["model"] == str(small_model)
    assert (origin["steps"], origin["licence"]) == (4, "CC0-1.0")


def test_the_adapter_serves_beside_its_base(
    settings: Make, clips: dict[str, np.ndarray], small_model: Path
) -> None:
    """What PEFT's own code has written gives the merged model's tokens, on its own base alone."""
    made = settings(method="lora", lora={"rank": 4}, optimiser={"learning_rate": 1e-2})
    outcome = go(made)
    folders = {"products": str(made.output / "adapter")}
    beside = Engine(open_checkpoint(str(small_model), folders), EngineConfig())
    merged = Engine(open_checkpoint(str(outcome.model)), EngineConfig())
    pcm, options = clips["librivox-0880.wav"], DecodingOptions(max_new_tokens=8)
    found = run_alone(beside, Request("a", pcm, options, adapter="products"))
    expected = run_alone(merged, Request("a", pcm, options))
    assert found.tokens == expected.tokens
    assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert found.tokens != run_alone(beside, Request("b", pcm, options)).tokens
    with pytest.raises(WeightsError, match="it was trained on another model"):
        open_checkpoint("demo:tiny.en", folders)


def test_the_best_weights_win(settings: Make, manifest: Path) -> None:
    """Measured by our engine: before, on the way, and after; the curves have a point for each."""
    sets = [{"name": "clips", "manifest": str(manifest)}]
    made = settings(validation=sets, steps=2, evaluate_every=1)
    outcome = go(made)
    assert outcome.selection is not None and outcome.model is not None
    measured = [r for r in RunFiles(made).read_history() if r["kind"] == "measured"]
    assert [record["step"] for record in measured] == [0, 1, 2]
    rates = [record["wer"]["clips"] for record in measured]
    assert outcome.selection.best_step == rates.index(min(rates))
    assert outcome.selection.before == {"clips": rates[0]}
    assert all(record["words"] == {"clips": 70} for record in measured)
    origin = read_origin(outcome.model)["word_error_rate_percent"]["clips"]
    assert origin == {"before": round(rates[0], 3), "after": round(min(rates), 3)}


def test_checkpoints_are_few_and_whole(settings: Make) -> None:
    made = settings(steps=5, checkpoint_every=1, keep_checkpoints=2)
    go(made)
    names = sorted(path.name for path in (made.output / "checkpoints").iterdir())
    assert names == ["00000004", "00000005"]
    state = json.loads((made.output / "checkpoints/00000005/state.json").read_text())
    assert state["step"] == 5


def test_a_loss_that_is_not_finite_ends_the_run(settings: Make) -> None:
    made = settings(steps=30, optimiser={"learning_rate": 1.0, "max_grad_norm": 1e30})
    run = Run(made, World(CPU), lambda _: None, lambda: False)
    with torch.no_grad():
        next(iter(run._learner.learnt().values())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss of step 1 is nan: a lower"):
        run.go()


def test_faults_of_data_are_told_before_anything_is_learnt(settings: Make, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"audio": "missing.wav", "text": "a"}\n{"audio": "x.wav"}\n')
    with pytest.raises(TrainingError, match=r"bad.jsonl:2: text must be"):
        finetune(settings(train=[str(bad)]), lambda _: None)


@pytest.mark.parametrize("changes", [{"encoder": "frozen"}, {"checkpoint_activations": True}])
def test_memory_settings_change_no_number(settings: Make, changes: dict[str, object]) -> None:
    """Activations that are computed again are the same; a frozen encoder leaves the first loss, and
    its own weights, as they are."""
    plain, changed = (
        Learner(open_checkpoint(made.model), made, CPU)
        for made in (settings(encoder=changes.get("encoder", "trained")), settings(**changes))
    )
    mel, tokens = torch.randn(2, 80, 3000), torch.randint(0, 50_000, (2, 12))
    losses = [learner(mel, tokens, tokens) for learner in (plain, changed)]
    assert losses[0].detach().item() == pytest.approx(losses[1].detach().item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    ours, theirs = changed.learnt(), plain.learnt()
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("model.encoder") for name in ours) != ("encoder" in changes)
    for name, weight in ours.items():
        assert torch.allclose(weight.grad, theirs[name].grad, atol=1e-5), name
