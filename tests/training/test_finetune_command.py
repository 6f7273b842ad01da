"""`murmur finetune` from settings to a model that transcribes, and `murmur plan --train`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.commands import cli

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def settings_file(small_model: Path, manifest: Path, tmp_path: Path) -> Path:
    values: dict[str, Any] = {
        "model": str(small_model),
        "output": str(tmp_path / "run"),
        "train": [str(manifest)],
        "validation": [{"name": "clips", "manifest": str(manifest)}],
        "steps": 1,
        "batch_size": 1,
        "accumulate": 1,
    }
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_from_settings_to_text(
    settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["finetune", str(settings_file)]) == 0
    said = capsys.readouterr()
    kinds = [json.loads(line)["kind"] for line in said.err.splitlines() if line.startswith("{")]
    assert kinds == ["measured", "step", "measured"]
    assert "| clips | " in said.out and said.out.splitlines()[-1] == str(tmp_path / "run/model")
    # What random weights write looks wrong at every temperature.
    command = ["transcribe", str(DATA / "librivox-0880.wav"), "--no-fallback"]
    assert cli.main([*command, "--model", str(tmp_path / "run/model")]) == 0


def test_a_look_before_it_runs(
    settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["finetune", str(settings_file), "--dry-run"]) == 0
    assert "| train | 5 " in capsys.readouterr().out
    assert not (tmp_path / "run/history.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "nothing-here"}, "unknown model 'nothing-here'"),
        ({"train": ["missing.jsonl"]}, "missing.jsonl: cannot be read"),
        ({"steps": "many"}, "steps: "),
    ],
)
def test_bad_input_is_one_line(
    settings_file: Path,
    changes: dict[str, Any],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = yaml.safe_load(settings_file.read_text()) | changes
    settings_file.write_text(yaml.safe_dump(values))
    assert cli.main(["finetune", str(settings_file)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith("murmur: ") and words in said.err


def test_the_plan_for_training(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--train", "large-v3", "--batch-size", "1", "--json"]
    assert cli.main([*command, "--gpu", "T4", "--gpu", "A100-40G"]) == 0
    plans = {p["way"]: p for p in json.loads(capsys.readouterr().out)["plans"]}
    full = plans["all weights, float32"]
    kinds = dict(full["memory_bytes"])
    measuring = kinds.pop("measuring")
    assert sum(kinds.values()) == 2 * kinds["total"] and measuring < kinds["total"]
    # What articles say of running it is right of training it.
    assert kinds["total"] == pytest.approx(30e9, rel=0.05)
    assert full["fits"] == ["A100-40G"]
    assert plans["LoRA, 16 bits, checkpointed"]["fits"] == ["T4", "A100-40G"]
    assert cli.main(["plan", "--train", "base"]) == 0
    assert "| all weights, float32 " in capsys.readouterr().out
