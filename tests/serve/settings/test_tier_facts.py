"""What the router knows of a tier, by its settings and by the names of model and devices."""

from typing import Any

import pytest

from deployments.planning.gpu_catalogue import gpu_catalogue
from deployments.planning.planner import REACHED, Question, plan
from engine import PUBLISHED, EngineConfig, Precision
from engine.model_sizes import MODEL_SIZES
from serve.settings.config import TierSettings
from serve.settings.tier_facts import expected_rtfx, tier_facts


def tier(**settings: Any) -> TierSettings:
    return TierSettings(**{"name": "t", "model": "openai/whisper-small", **settings})


@pytest.mark.parametrize(
    ("model", "quality", "languages", "translates"),
    [
        ("demo:tiny.en", 1, {"en"}, False),
        ("demo:base", 2, None, True),
        ("openai/whisper-large-v3-turbo", 5, None, False),
        ("openai/whisper-large-v3", 6, None, True),
        ("large-v3-turbo", 5, None, False),
        ("distil-whisper/distil-large-v3.5", 5, {"en"}, False),
        ("distil-large-v2", 5, {"en"}, False),
        ("distil-small.en", 3, {"en"}, False),
        ("/models/own", 0, None, True),
    ],
)
def test_a_models_name_tells_what_it_can(
    model: str, quality: int, languages: set[str] | None, translates: bool
) -> None:
    facts = tier_facts(tier(model=model))
    assert (facts.quality, facts.translates) == (quality, translates)
    assert facts.languages == (None if languages is None else frozenset(languages))


@pytest.mark.parametrize("model", PUBLISHED)
def test_every_published_model_takes_part_in_auto(model: str) -> None:
    assert tier_facts(tier(model=model)).quality > 0


def test_settings_go_before_names() -> None:
    facts = tier_facts(
        tier(model="/models/own", quality=9, languages=["de"], translates=False, cold_start_s=7)
    )
    assert (facts.quality, facts.languages, facts.translates) == (9, frozenset({"de"}), False)
    assert facts.cold_start_s == 7


def test_adapters_are_known_by_their_names() -> None:
    assert tier_facts(tier(adapters={"names": "/a", "accent": "/b"})).adapters == (
        "names",
        "accent",
    )


def test_a_replica_costs_what_all_its_devices_do() -> None:
    """On demand unless it is on spot machines alone; the cheapest machine of the catalogue."""
    instance = gpu_catalogue().cheapest("L4", spot=False)
    spot = gpu_catalogue().cheapest("L4", spot=True)
    assert instance is not None and spot is not None
    one = instance.usd_per_gpu_hour(spot=False)
    assert tier_facts(tier(accelerator="L4")).usd_per_hour == one
    assert tier_facts(tier(accelerator="L4", spot=False)).usd_per_hour == one
    spot_price = spot.usd_per_gpu_hour(spot=True)
    assert one is not None and spot_price is not None and spot_price < one
    assert tier_facts(tier(accelerator="L4", spot=True)).usd_per_hour == spot_price
    gang = tier(accelerator="L4", tensor_parallel=2, pipeline_parallel=3)
    assert tier_facts(gang).usd_per_hour == pytest.approx(6 * one)
    assert tier_facts(tier(cpus=4)).usd_per_hour == pytest.approx(4 * 0.045)
    assert tier_facts(tier(accelerator="L4", usd_per_hour=1.5)).usd_per_hour == 1.5


def test_expected_speed_is_the_planners() -> None:
    question = Question(MODEL_SIZES["small"], EngineConfig(), Precision.FLOAT16, batch=24)
    planned = plan(question, gpu_catalogue().gpu("T4"))
    found = expected_rtfx(tier(accelerator="T4", batch_size=24, precision="float16"))
    assert found == pytest.approx(REACHED * planned.rtfx)
    assert expected_rtfx(tier(rtfx=12.5)) == 12.5
    assert expected_rtfx(tier(cpus=3)) == pytest.approx(3 * expected_rtfx(tier()))


def test_a_split_model_is_as_fast_as_its_slowest_stage() -> None:
    large = {"model": "openai/whisper-large-v3", "accelerator": "H100"}
    alone = expected_rtfx(tier(**large))
    even = expected_rtfx(tier(**large, pipeline_parallel=2))
    uneven = expected_rtfx(tier(**large, pipeline_parallel=2, stage_layers=[4, 60]))
    assert alone < even and uneven < even


def test_a_pipelines_slots_are_in_groups() -> None:
    """All texts of a chunk lie in one of them."""
    facts = tier_facts(tier(pipeline_parallel=3, batch_size=12))
    assert (facts.max_slot_groups, facts.max_texts) == (3, 4)
