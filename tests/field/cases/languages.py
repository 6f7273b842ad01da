"""Languages as clients spell them."""

from pathlib import Path

from tests.field.audio import say
from tests.field.case import COMMAND_LINE, HTTP, Case, FileCase
from tests.field.checks import Check, Heard, Refused, That, every
from tests.field.media import write

_CLIP = say("D")
_SPELLINGS = {
    "en-US": "english",
    "eng": "english",
    "auto": "english",
    "none": "english",
    "pt_BR": "portuguese",
    "Portuguese (Brazil)": "portuguese",
    "zh-TW": "chinese",
    "cmn": "chinese",
    "fil": "tagalog",
    "nb": "norwegian",
    "iw": "hebrew",
    "deu": "german",
}


def _make(folder: Path) -> Path:
    return write(folder / "a.wav", _CLIP.samples)


def _spelled(spelling: str, language: str) -> Case:
    """A row for a spelling. If the language is not the spoken one, the words prove nothing, so only
    the answer's language is checked."""
    used = That(
        f"200, language {language}",
        lambda answer: answer.status == 200 and answer.body.get("language") == language,
    )
    check: Check = every(used, Heard(_CLIP.said)) if language == "english" else used
    fields = {"language": spelling, "temperature": "0"}
    return FileCase(f"language/{spelling}", _make, check, "base", fields)


CASES: list[Case] = [
    *(_spelled(spelling, language) for spelling, language in _SPELLINGS.items()),
    FileCase(
        "language/de of tiny.en",
        _make,
        Refused((400,), param="language", says=r"english|\ben\b"),
        fields={"language": "de"},
    ),
    FileCase(
        "language/that nobody knows",
        _make,
        Refused((400,), param="language", says="klingon"),
        "base",
        fields={"language": "klingon"},
        ways=(HTTP, COMMAND_LINE),
    ),
]
