"""Settings of a run: what is refused, in one line for each fault, and the learning rate."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.settings.config import ConfigError
from serve.settings.finetune import load_finetune_settings
from training.settings import FinetuneSettings

MINIMAL = {"model": "tiny.en", "output": "out", "train": ["a.jsonl"]}


def _load(tmp_path: Path, values: dict[str, Any]) -> FinetuneSettings:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_finetune_settings(path)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [{"name": "check", "manifest": "b.csv"}]
    made = _load(tmp_path, MINIMAL | {"validation": sets})
    assert (made.output, made.train) == (tmp_path / "out", (tmp_path / "a.jsonl",))
    assert made.validation[0].manifest == tmp_path / "b.csv"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": []}, "train: "),
        ({"stepz": 1}, "stepz: there is no such setting"),
        ({"model": ""}, "model: "),
        ({"steps": 0}, "steps: "),
        ({"device": "cpu", "precision": "float16"}, "a CPU trains in float32 or bfloat16"),
        ({"patience": 3}, "patience needs a validation set"),
        ({"validation": [{"name": "A", "manifest": "b"}]}, "validation.0.name: "),
        (
            {"validation": [{"name": "a", "manifest": "b", "max_rise": 1}]},
            "a validation set without max_rise is needed",
        ),
        (
            {"validation": [{"name": "a", "manifest": "b"}] * 2},
            "two validation sets have the same name",
        ),
        ({"lora": {"layers": ["embed"]}}, "lora: layers must be some of q_proj"),
        ({"windows": {"pause_s": [2, 1]}}, "windows: pause_s [2.0, 1.0] must rise"),
        ({"augment": {"noise_snr_db": [9, 1]}}, "augment: noise_snr_db [9.0, 1.0] must rise"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.split(":")[0],
)
def test_one_line_for_a_fault(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        _load(tmp_path, MINIMAL | changes)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_faults_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        _load(tmp_path, {"model": "tiny.en", "steps": -1})
    assert {line.split(":")[0] for line in str(error.value).splitlines()} == {
        *("output", "train", "steps")
    }


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_and_then_goes_as_asked(schedule: str) -> None:
    optimiser = {"learning_rate": 0.1, "warmup": 0.2, "schedule": schedule}
    made = FinetuneSettings.model_validate(MINIMAL | {"steps": 100, "optimiser": optimiser})
    rates = [made.learning_rate(step) for step in range(100)]
    assert rates[:20] == pytest.approx([0.1 * (step + 1) / 20 for step in range(20)])
    assert rates[20] == pytest.approx(0.1)
    assert rates[60] == pytest.approx({"constant": 0.1}.get(schedule, 0.05))
    assert all(late <= early for early, late in zip(rates[20:], rates[21:], strict=False))
    assert rates[99] == 0.1 if schedule == "constant" else 0 < rates[99] < 0.002


def test_default_rates_are_by_method() -> None:
    full, lora = (
        FinetuneSettings.model_validate(MINIMAL | {"method": m}) for m in ("full", "lora")
    )
    assert (full.peak_learning_rate, lora.peak_learning_rate) == (1e-5, 5e-4)
