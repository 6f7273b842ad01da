"""What an update does to running replicas: it replaces them, or tells them."""

import json
from typing import Any

import pytest
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.version import DeploymentVersion
from ray.serve.schema import ServeDeploySchema

from serve.commands.deploying import application_of
from serve.settings.changes import Changes, changes
from serve.settings.loading import load_settings
from serve.settings.serve_config import serve_config

TIERS: list[dict[str, Any]] = [
    {"name": "tiny.en", "model": "demo:tiny.en"},
    {"name": "base", "model": "demo:base"},
]


def application(tier: dict[str, Any] | None = None, surge: bool = False, **sections: Any) -> Any:
    """The application's config, with other settings of the second tier and other sections."""
    tiers = [TIERS[0], {**TIERS[1], **(tier or {})}]
    settings = load_settings(None, {}, {"tiers": tiers, **sections})
    return application_of(serve_config(settings, surge=["base"] if surge else ()))


def change_to(tier: dict[str, Any] | None = None, **sections: Any) -> Changes:
    return changes(application(), application(tier, **sections))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"limits": {"max_requests": 9}}, ["Ingress"]),
        ({"limits": {"deadline_s": 60.0}}, ["Ingress", "tiny_en", "base"]),
        ({"auth": {"api_keys": ["sk-secret"]}}, ["Ingress"]),
        ({"aliases": {"mine": "base"}}, ["Ingress"]),
        ({"routing": {"quality": "fast"}}, ["Ingress"]),
        ({"routing": {"cascade": {"min_token_prob": 0.5}}}, ["Ingress"]),
        ({"routing": {"canary": {"base": {"to": "tiny.en", "share": 0.1}}}}, ["Ingress", "Board"]),
        ({"slo": {"queue_wait_s": 3.0}}, ["Ingress", "Board"]),
        ({"autoscaling": {"down_delay_s": 1.0}}, ["Board"]),
        ({"ingress": {"replicas": 2}}, ["Ingress"]),
        ({"log_level": "DEBUG"}, ["Ingress", "Board", "tiny_en", "base"]),
        ({"tier": {"quality": 5}}, ["Ingress", "Board"]),
        ({"tier": {"usd_per_hour": 1.5}}, ["Ingress", "Board"]),
        ({"tier": {"languages": ["en", "de"]}}, ["Ingress", "Board"]),
        ({"tier": {"max_replicas": 3}}, ["Ingress", "Board", "base"]),
        ({"tier": {"min_replicas": 0}}, ["Ingress", "Board", "base"]),
        ({"tier": {"min_replicas": 2, "max_replicas": 2}}, ["Ingress", "Board", "base"]),
    ],
    ids=str,
)
def test_what_needs_no_other_engine_is_told(sections: dict[str, Any], told: list[str]) -> None:
    found = change_to(**sections)
    assert (found.whole, found.replaced) == ("", {})
    assert set(found.told) == set(told)
    assert "secret" not in "\n".join(found.lines())


@pytest.mark.parametrize(
    "tier",
    [
        {"model": "demo:tiny.en"},
        {"precision": "float32"},
        {"batch_size": 7},
        {"cpus": 2},
        {"max_length": 228},
        {"tensor_parallel": 2},
    ],
    ids=str,
)
def test_another_engine_replaces_its_tier_alone(tier: dict[str, Any]) -> None:
    found = change_to(tier)
    assert found.whole == "" and set(found.replaced) == {"base"}


def test_other_tiers_replace_everything_and_are_named() -> None:
    settings = load_settings(None, {}, {"tiers": [TIERS[0], {"name": "b", "model": "demo:base"}]})
    found = changes(application(), application_of(serve_config(settings)))
    assert found.lines() == ["every replica is replaced: with tier b, without tier base"]


def test_the_same_is_no_change_however_replicas_are_replaced() -> None:
    found = changes(application(), application(surge=True))
    assert not found and found.lines() == ["nothing changes"]


def test_the_words_name_settings_as_they_are_written() -> None:
    lines = change_to({"batch_size": 7}, limits={"max_requests": 9}).lines()
    assert "base: replaced: batch_size 24 -> 7" in lines
    (ingress,) = (line for line in lines if line.startswith("Ingress"))
    assert "tiers.base.batch_size default -> 7" in ingress
    assert "limits.max_requests default -> 9" in ingress


@pytest.mark.parametrize("tier", [{"model": "demo:tiny.en"}, {"quality": 5}, {"max_replicas": 3}])
def test_serve_judges_as_we_do(tier: dict[str, Any]) -> None:
    """By Serve's own comparison of versions, for the options of the tier's deployment."""

    def version(app: Any) -> DeploymentVersion:
        schema = ServeDeploySchema.model_validate({"applications": [app]}).applications[0]
        (deployment,) = (d for d in schema.deployments if d.name == "base")
        options = deployment.model_dump(exclude_unset=True)
        actor = options.pop("ray_actor_options")
        return DeploymentVersion("1", DeploymentConfig(**_known(options)), actor)

    def _known(options: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in options.items() if k in DeploymentConfig.model_fields}

    before, after = version(application()), version(application(tier))
    found = change_to(tier)
    assert before.requires_actor_restart(after) == ("base" in found.replaced)


def test_what_serve_stores_compares_equal_to_what_is_sent() -> None:
    sent = application()
    assert not changes(json.loads(json.dumps(sent)), sent)
