"""Names of Whisper's languages."""

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

ALL_LANGUAGES = tuple(LANGUAGES)
"""ISO codes of all that some Whisper model knows."""


def language_name(code: str) -> str:
    """ISO code -> English name in lower case; the code itself if it is unknown."""
    return str(LANGUAGES.get(code, code))


def language_code(name_or_code: str) -> str:
    """English name or ISO code, in any case -> ISO code; what is neither is returned as it is."""
    lowered = name_or_code.strip().lower()
    return str(TO_LANGUAGE_CODE.get(lowered, lowered))
