"""Names of the published models: one for each, whatever it is called.

`turbo`, `large-v3-turbo` and `openai/whisper-large-v3-turbo` are one model, whose name here is
openai/whisper's (`whisper/__init__.py`, `_MODELS`), or distil-whisper's.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher

_OPENAI = (
    *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
    *("large-v1", "large-v2", "large-v3"),
)
_DISTILLED = (
    *("distil-small.en", "distil-medium.en"),
    *("distil-large-v2", "distil-large-v3", "distil-large-v3.5"),
)
PUBLISHED = {
    **{name: f"openai/whisper-{name}" for name in _OPENAI},
    "large-v1": "openai/whisper-large",
    "turbo": "openai/whisper-large-v3-turbo",
    **{name: f"distil-whisper/{name}" for name in _DISTILLED},
}
"""Name -> hub id."""
_OF_HUB_IDS = {hub_id: name for name, hub_id in PUBLISHED.items()}
_ALSO = {"large": "large-v3", "large-v3-turbo": "turbo", "whisper-large-v3-turbo": "turbo"}
"""`whisper-large` is none of them: openai/whisper's `large` is the third, the hub's the first."""
NAMES = tuple(sorted((*PUBLISHED, "large", "large-v3-turbo")))
"""What published models may be called in short."""


def published_name(name: str) -> str | None:
    """The published model that is meant, as a key of `PUBLISHED`: by its short name or its hub id,
    with or without owner and in any case, or as a demo model. None: it is not one of them, such as
    any folder."""
    name = name.strip().lower().removeprefix("demo:")
    short = _ALSO.get(name, _OF_HUB_IDS.get(name, name))
    if short not in PUBLISHED:
        short = name.removeprefix("whisper-")
    return short if short in PUBLISHED else None


def short_name(name: str) -> str:
    """A published model's; others as they are."""
    return published_name(name) or name


def by_likeness(name: str, known: Iterable[str]) -> list[str]:
    """Known names, those most like this one first."""
    wanted = name.strip().lower().removeprefix("whisper-")
    return sorted(known, key=lambda other: -SequenceMatcher(None, wanted, other).ratio())
