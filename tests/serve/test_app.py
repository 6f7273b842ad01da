"""Settings of tiers -> deployments and their places."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from deployments.planning.accelerators import shared_arithmetic
from deployments.replicas.gang_mesh import gang_config
from deployments.tier import Sharding, TierSpec, spec_of
from engine import CrossAttentionMode, EngineConfig, Offload, Precision
from engine.errors import PrecisionError
from engine.precision import Arithmetic
from serve.app import assemble
from serve.commands.deploying import short_reason, what_is_missing
from serve.settings.config import ConfigError, Settings
from serve.settings.loading import load_settings


def settings_of(**tier: Any) -> Settings:
    return load_settings(None, {}, {"tiers": [{"name": "large.v3", "model": "m", **tier}]})


def options_of(**tier: Any) -> Any:
    """How Serve is told to place a tier's replicas, and what these are told."""
    application = assemble(settings_of(**tier))
    (bound,) = application._bound_deployment.init_args[0].values()
    deployment = bound._bound_deployment
    environment = deployment.ray_actor_options["runtime_env"]["env_vars"]
    return deployment, spec_of(environment)


def test_one_device() -> None:
    deployment, spec = options_of(accelerator="L4", cpus=3)
    assert deployment.name == "large_v3" and spec.sharding is None and spec.device == "cuda"
    actor = deployment.ray_actor_options
    assert (actor["num_cpus"], actor["num_gpus"]) == (3, 1)
    assert actor["label_selector"] == {"ray.io/accelerator-type": "L4"}


def test_several_devices_have_a_bundle_a_stage() -> None:
    deployment, spec = options_of(
        tensor_parallel=2,
        pipeline_parallel=2,
        stage_accelerators=["L4", "H100"],
        stage_layers=[40, 24],
        cpus=3,
    )
    config = deployment._replica_config
    assert config.placement_group_bundles == [{"CPU": 7.0, "GPU": 2.0}, {"CPU": 6.0, "GPU": 2.0}]
    assert config.placement_group_bundle_label_selector == [
        {"ray.io/accelerator-type": "L4"},
        {"ray.io/accelerator-type": "H100"},
    ]
    assert deployment.ray_actor_options["num_cpus"] == 1, "the leader, in the first bundle"
    assert spec.device == "cuda"
    assert spec.sharding.shard_bundles == (0, 0, 1, 1)
    assert spec.sharding.stage_layers == (40, 24)


def test_several_processes_without_gpus_go_anywhere() -> None:
    deployment, spec = options_of(tensor_parallel=2, allow_cross_node_tp=True)
    config = deployment._replica_config
    assert config.placement_group_bundles == [{"CPU": 2.0}, {"CPU": 1.0}]
    assert not config.placement_group_bundle_label_selector
    assert spec.device == "cpu" and spec.sharding.shard_bundles == (0, 1)


def test_settings_of_memory_reach_the_engine() -> None:
    _, spec = options_of(
        accelerator="L4",
        precision="int4-g64",
        cross_attention="absorbed",
        int8_self_attention=True,
        offload="encoder",
        encode_batch=3,
        max_length=228,
        batch_size=17,
    )
    assert spec.engine_config(Precision.FLOAT16) == EngineConfig(
        device="cuda",
        precision=Precision.INT4_G64,
        cross_attention=CrossAttentionMode.ABSORBED,
        int8_self_attention=True,
        max_slots=17,
        encode_batch=3,
        max_length=228,
        offload=Offload.ENCODER,
    )


@pytest.mark.parametrize(
    ("tier", "message"),
    [
        ({"accelerator": "T4", "precision": "fp8"}, "T4 has no fp8; it has float32, float16, int8"),
        ({"accelerator": "V100", "precision": "int8"}, "V100 has no int8"),
        ({"precision": "fp8"}, "a CPU has no fp8"),
        (
            {
                "precision": "bfloat16",
                "pipeline_parallel": 2,
                "stage_accelerators": ["L4", "T4"],
            },
            "T4 has no bfloat16",
        ),
        ({"offload": "all"}, "offload is for GPUs: a CPU's memory is the host's"),
    ],
)
def test_what_a_device_has_not_is_refused_with_the_settings(
    tier: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(**tier)


def test_devices_that_share_a_quantised_model_compute_in_one_format() -> None:
    """A T4 has no bfloat16, so neither uses it: what they send each other has no name."""
    assert shared_arithmetic(["L4", "T4"]).half == torch.float16
    assert shared_arithmetic(["L4", "H100"]).half == torch.bfloat16
    spec = TierSpec("t", "large-v3", "cuda", Precision.INT8_WEIGHT_ONLY, max_slots=1, threads=1)
    assert gang_config(spec, Sharding(1, ("L4", "T4"), (), (1, 2), 5.0)).half == torch.float16
    config = EngineConfig(device="cuda", precision=Precision.INT8_WEIGHT_ONLY, half=torch.float16)
    ada = Arithmetic.of_gpu("NVIDIA L4", (8, 9))
    assert config.formats_on(ada).product == torch.float16
    with pytest.raises(PrecisionError, match="T4 has no bfloat16"):
        replace(config, half=torch.bfloat16).formats_on(Arithmetic.of_gpu("T4", (7, 5)))


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("no place for it", "no place for it"),
        (
            'Failed.\nTraceback (most recent call last):\n  File "a.py", line 1, in f\n'
            "engine.errors.ShardingError: must be 1 to 6: got 7\nand a second line",
            "must be 1 to 6: got 7\nand a second line",
        ),
        (
            'Traceback (most recent call last):\n  File "a.py"\nValueError: first\n\n'
            'Traceback (most recent call last):\n  File "b.py"\nRuntimeError: second',
            "second",
        ),
        ('Traceback (most recent call last):\n  File "a.py"\nKeyboardInterrupt', None),
    ],
)
def test_a_traceback_is_said_by_its_end(message: str, short: str | None) -> None:
    assert short_reason(message) == (message if short is None else short)


def test_what_a_start_still_waits_for_is_named() -> None:
    assert what_is_missing([]) == "no ingress answers"
    states = [{"tiny": True, "large": False}, {"tiny": False, "large": False}]
    assert what_is_missing(states) == "no chunk decoded by large, tiny"
