"""The tilings that were fastest on a kind of GPU, kept in a file of the user's cache folder.

A file belongs to one kind of GPU, one version of Triton and one text of our kernels; another of
these has another file. Any number of processes may read and write it: a file is replaced as a
whole, and what two of them add at once is measured again at worst. Without a file that can be read
or written everything works, with a warning.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from engine.cache_folder import cache_folder
from engine.kernels.triton.tiling import Tiling

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChoiceFile:
    """
    Attributes:
        about: what the choices are of; a file that says something else is not used.
    """

    path: Path
    about: Mapping[str, str]
    _warned: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, device: torch.device) -> "ChoiceFile":
        """The file of a CUDA device."""
        major, minor = torch.cuda.get_device_capability(device)
        about = {
            "gpu": torch.cuda.get_device_name(device),
            "capability": f"{major}.{minor}",
            "triton": version("triton"),
            "kernels": _hash_of_kernels(),
        }
        name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(about.values()))
        return cls(cache_folder() / "triton" / f"{name}.json", about)

    def read(self) -> dict[str, Tiling]:
        """The choices, by `Choice.name`; none if there is no file, or no good one."""
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            return self._refused(str(error))
        if not isinstance(found, dict) or found.get("about") != dict(self.about):
            return self._refused("it is of something else")
        choices = found.get("choices")
        if not isinstance(choices, dict) or not all(map(_is_tiling, choices.values())):
            return self._refused("it has no choices")
        return {name: Tiling(*numbers) for name, numbers in choices.items()}

    def add(self, choices: Mapping[str, Tiling]) -> None:
        """Keep more choices, beside those that are there by now."""
        both = {**self.read(), **choices}
        text = json.dumps({"about": dict(self.about), "choices": both}, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self.path, text)
        except OSError as error:
            self._warn("written", str(error))

    def _refused(self, reason: str) -> dict[str, Tiling]:
        self._warn("used", reason)
        return {}

    def _warn(self, what: str, reason: str) -> None:
        """Once of each kind: a process adds choices many times."""
        if what not in self._warned:
            self._warned.add(what)
            _logger.warning("choices for GPU kernels cannot be %s: %s: %s", what, self.path, reason)


def _is_tiling(numbers: object) -> bool:
    return (
        isinstance(numbers, list)
        and len(numbers) == len(Tiling._fields)
        and all(type(number) is int for number in numbers)
    )


def _replace(path: Path, text: str) -> None:
    """Write a file that others see whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _hash_of_kernels() -> str:
    """Of the text of this package: with other kernels other tilings may be the fastest."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
