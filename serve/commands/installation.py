"""Which installation of Murmur this is, to tell whether a running cluster is of the same one.

A cluster's processes import the package and Ray when they start. If these are replaced or removed
meanwhile, replicas that start later are of another version than those that run, or cannot start.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("engine", "deployments", "serve")
_VERSIONS = ("murmur-serve", "ray", "torch", "transformers")


def this_installation() -> dict[str, str]:
    """Where it is, what its code is, and which versions it uses."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(_ROOT)).encode())
            digest.update(path.read_bytes())
    return {
        "folder": str(_ROOT),
        "interpreter": sys.executable,
        "python": platform.python_version(),
        **{name: version(name) for name in _VERSIONS},
        "code": digest.hexdigest(),
    }


def write_installation(path: Path) -> None:
    """Note this installation in a file."""
    path.write_text(json.dumps(this_installation()), encoding="utf-8")


def difference(path: Path) -> str:
    """How the installation that a file notes differs from this one, in words; empty: not at all, or
    there is no such file."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return _difference(noted, this_installation())


def _difference(noted: Mapping[str, str], here: Mapping[str, str]) -> str:
    if noted.get("folder") != here["folder"]:
        gone = "" if Path(noted.get("folder", "")).is_dir() else ", which is gone"
        return f"it runs the installation in {noted.get('folder')}{gone}"
    changed = [name for name in here if noted.get(name) != here[name]]
    named = [
        f"{name} {noted.get(name)} instead of {here[name]}" for name in changed if name != "code"
    ]
    if named:
        return f"it runs {', '.join(named)}"
    return "it runs older code of this installation" if changed else ""
