"""`murmur check-config`: what a settings file means, or what is wrong with it."""

import sys
from pathlib import Path

import yaml

from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from serve.settings.check import check_settings
from serve.settings.cluster_file import check_cluster
from serve.settings.config import ConfigError
from serve.settings.loading import load_settings


def check_config(path: str | None, cluster: str | None = None) -> int:
    """Print the settings with all defaults as YAML, or their faults on the standard error.

    Args:
        cluster: a file for `ray up`, whose node types must have room for every tier.
    """
    try:
        settings = load_settings(None if path is None else Path(path))
        check_settings(settings)
        if cluster is not None:
            check_cluster(settings, Path(cluster))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    # Keys are not shown: what is printed ends up in logs.
    values = settings.model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
    return EXIT_OK
