"""`murmur fetch`: downloads the weights of tiers before their replicas need them."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.replicas.placement import suits
from engine import resolve_model
from engine.errors import EngineError
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from serve.settings.check import check_settings
from serve.settings.config import ConfigError, TierSettings
from serve.settings.loading import load_settings
from serve.settings.tier_placement import tier_placement


def fetch(path: str | None, labels: str | None, models: Sequence[str] = ()) -> int:
    """Download the weights of each tier that are missing; print each model and its folder.

    Args:
        labels: of a node, as JSON; tiers that cannot run there are left out.
        models: fetch these instead of the tiers' models.
    """
    if models:
        return _fetch_all(models)
    try:
        settings = load_settings(None if path is None else Path(path))
        check_settings(settings)
        node_labels = None if labels is None else _labels(labels)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    wanted = [tier for tier in settings.tiers if node_labels is None or _runs(tier, node_labels)]
    return _fetch_all([tier.model for tier in wanted])


def _fetch_all(models: Sequence[str]) -> int:
    failed = [model for model in dict.fromkeys(models) if not _fetch(model)]
    return EXIT_FAILED if failed else EXIT_OK


def _labels(text: str) -> dict[str, str]:
    try:
        labels: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--labels: no JSON: {error}") from error
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ConfigError("--labels must be an object of strings")
    return labels


def _runs(tier: TierSettings, node_labels: Mapping[str, str]) -> bool:
    """Whether any part of a tier's replicas may run on a node with these labels."""
    return any(suits(labels, node_labels) for labels in tier_placement(tier).labels)


def _fetch(model: str) -> bool:
    try:
        print(f"{model}  {resolve_model(model)}", flush=True)
    except EngineError as error:
        print(f"murmur: {error}", file=sys.stderr)
        return False
    return True
