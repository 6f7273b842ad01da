"""`murmur check-config`: what a settings file means, or what is wrong with it."""

from pathlib import Path

import yaml

from serve.commands.connection import guarded
from serve.commands.exit_codes import EXIT_OK
from serve.settings.check import check_settings
from serve.settings.cluster_file import check_cluster
from serve.settings.loading import load_settings


def check_config(path: str | None, cluster: str | None = None, models: bool = False) -> int:
    """Print the settings with all defaults as YAML, or their faults on the standard error.

    Args:
        cluster: a file for `ray up`, whose node types must have room for every tier.
        models: whether to look at the models, on this machine, as `murmur up` does.
    """
    return guarded(lambda: _check_config(path, cluster, models))


def _check_config(path: str | None, cluster: str | None, models: bool) -> int:
    settings = load_settings(None if path is None else Path(path))
    check_settings(settings)
    if cluster is not None:
        check_cluster(settings, Path(cluster))
    if models:
        from serve.commands.looking import look_here

        look_here(settings.tiers)
    # Keys are not shown: what is printed ends up in logs.
    values = settings.model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
    return EXIT_OK
