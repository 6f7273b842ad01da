"""Loads the settings of a fine-tuning run from a YAML file."""

from pathlib import Path

from pydantic import ValidationError

from serve.settings.config import ConfigError
from serve.settings.loading import fault_lines, read_yaml
from training.settings import FinetuneSettings


def load_finetune_settings(path: Path) -> FinetuneSettings:
    """Read and check a file. Its paths are seen from the present folder, and become absolute,
    because workers run elsewhere.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown, missing or out of bounds: a
            line for each fault.
    """
    try:
        settings = FinetuneSettings.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError("\n".join(fault_lines(error))) from error
    return settings.model_copy(
        update={
            "output": settings.output.absolute(),
            "train": tuple(manifest.absolute() for manifest in settings.train),
            "validation": tuple(
                each.model_copy(update={"manifest": each.manifest.absolute()})
                for each in settings.validation
            ),
        }
    )
