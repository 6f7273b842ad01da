"""Where the engine keeps what it can make again, in the user's cache folder."""

import os
from pathlib import Path

VARIABLE = "MURMUR_CACHE"
"""Names the folder."""


def cache_folder() -> Path:
    """`$MURMUR_CACHE`, else `$XDG_CACHE_HOME/murmur`, else `~/.cache/murmur`."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "murmur"
