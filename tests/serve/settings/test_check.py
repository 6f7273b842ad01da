"""Settings that are each within their bounds and together cannot be: one line for each fault."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.app import build
from serve.commands.cli import main
from serve.settings.check import check_settings
from serve.settings.config import ConfigError
from serve.settings.loading import load_settings

LARGE = {"name": "large", "model": "openai/whisper-large-v3", "accelerator": "L4"}


def faults(**settings: Any) -> list[str]:
    try:
        check_settings(load_settings(None, {}, settings))
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        (
            {"accelerator": "T4", "precision": "float32", "batch_size": 48},
            "tiers.0: the model at float32 with 48 slots on T4 needs 37.1 GB",
        ),
        (
            {"accelerator": "T4", "precision": "float32", "tensor_parallel": 2, "batch_size": 96},
            "tiers.0: no cut of the model into 1 stages fits in memory: the nearest one needs",
        ),
        (
            {
                "accelerator": "T4",
                "precision": "float32",
                "pipeline_parallel": 2,
                "stage_layers": [32, 32],
                "batch_size": 96,
            },
            "tiers.0: a rank of stage 2 (decoder 0-31) needs ",
        ),
        (
            {"tensor_parallel": 21},
            "tiers.0: tensor_parallel must be 1 to 20, the model's number of heads; got 21",
        ),
        (
            {"pipeline_parallel": 2, "stage_layers": [32, 33]},
            "tiers.0: stages of [32, 33] layers are 65 in all; the model has 64",
        ),
        (
            {"accelerator": "B300X"},
            "tiers.0: usd_per_hour must be set: no price of 'B300X' is known",
        ),
        (
            {"model": "distil-whisper/distil-large-v3.5", "translates": True},
            "tiers.0: distil-whisper/distil-large-v3.5 knows English alone",
        ),
        ({"model": "small.en", "languages": ["en", "fr"]}, "tiers.0: small.en knows English alone"),
    ],
)
def test_a_tier_that_cannot_be(tier: dict[str, Any], said: str) -> None:
    (fault,) = faults(tiers=[{**LARGE, **tier}])
    assert fault.startswith(said)


def test_what_can_be_is_accepted() -> None:
    own = {"name": "own", "model": "/models/own", "accelerator": "B300X", "usd_per_hour": 9}
    assert faults() == []
    assert faults(tiers=[LARGE, own, {"name": "cpu", "model": "demo:tiny.en"}]) == []


def test_every_fault_has_a_line() -> None:
    unknown = {**LARGE, "accelerator": "B300X"}
    found = faults(tiers=[unknown | {"name": "a"}, LARGE, unknown | {"name": "b"}])
    assert [fault.split(":")[0] for fault in found] == ["tiers.0", "tiers.2"]


def test_auto_needs_a_tier_whose_quality_is_known() -> None:
    own = {"name": "own", "model": "/models/own"}
    (fault,) = faults(tiers=[own], aliases={"whisper-1": "auto"})
    assert "no tier takes part in it: set quality" in fault
    assert faults(tiers=[own | {"quality": 3}], aliases={"whisper-1": "auto"}) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"slo": {"queue_wait_s": 0.5}}, "realtime_wait_s (1), queue_wait_s (0.5)"),
        ({"slo": {"batch_wait_s": 2.0}}, "batch_wait_s (2) must not fall"),
        ({"limits": {"deadline_s": 4.0}}, "slo.queue_wait_s (5) must be less than"),
        (
            {"tiers": [{**LARGE, "min_replicas": 2, "max_replicas": 1}]},
            "min_replicas (2) is above max_replicas (1)",
        ),
    ],
)
def test_limits_that_contradict_each_other(settings: dict[str, Any], said: str) -> None:
    (fault,) = faults(**settings)
    assert said in fault


@pytest.mark.parametrize("command", ["check-config", "build", "up"])
def test_every_command_refuses(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "murmur.yaml"
    path.write_text(yaml.safe_dump({"tiers": [{**LARGE, "accelerator": "B300X"}]}))
    assert main([command, str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "tiers.0: usd_per_hour must be set: no price of 'B300X' is known\n"


def test_so_does_the_application_at_its_start() -> None:
    with pytest.raises(ConfigError, match="no price of 'B300X' is known"):
        build({"tiers": [{**LARGE, "accelerator": "B300X"}]})
