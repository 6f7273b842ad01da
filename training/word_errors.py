"""Word errors of a text: the one measure of training and of all benchmarks.

Words are what Whisper's own text normalizer leaves of a text: the English one (numbers, spelling,
contractions) for "en", the basic one (case, punctuation) for every other language.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer


@dataclass(frozen=True)
class ErrorRate:
    """Edit counts between two texts; `length` is the reference's, in words or characters."""

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference unit; an empty reference counts as one unit to stay finite."""
        return self.errors / max(1, self.length)


def normalise(text: str, language: str, *, fold_accents: bool = False) -> str:
    """Text as Whisper's normalizers leave it; `fold_accents` drops diacritics outside English."""
    words = _normalizer(language, fold_accents)(text).split()
    # The English one leaves the last dot of a closing "...", which nobody says.
    return " ".join(word for word in words if any(map(str.isalnum, word)))


def wer(reference: str, hypothesis: str, language: str, *, fold_accents: bool = False) -> ErrorRate:
    """Word error rate after normalisation. `fold_accents` is for references without accents."""
    result = jiwer.process_words(
        normalise(reference, language, fold_accents=fold_accents),
        normalise(hypothesis, language, fold_accents=fold_accents),
    )
    return error_rate(result)


def error_rate(result: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorRate:
    return ErrorRate(
        substitutions=result.substitutions,
        deletions=result.deletions,
        insertions=result.insertions,
        length=result.hits + result.substitutions + result.deletions,
    )


@lru_cache
def _normalizer(language: str, fold_accents: bool) -> Callable[[str], str]:
    normalizer: Callable[[str], str] = (
        EnglishTextNormalizer()
        if language == "en"
        else BasicTextNormalizer(remove_diacritics=fold_accents)
    )
    return normalizer
