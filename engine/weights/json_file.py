"""Reads the JSON files that lie beside weights."""

import json
from pathlib import Path
from typing import Any

from engine.errors import WeightsError


def read_json(path: Path, label: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        label: what an error calls the file, if not by its path.

    Raises:
        WeightsError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{label or path}: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{label or path}: not a JSON object")
    return content
