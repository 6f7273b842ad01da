"""What ordinary tokens stand for, and how words begin and go on in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_OPENINGS = frozenset(
    " \t\n-\u2010\u2013\u2014/([{\"'\u2018\u2019\u201a\u201c\u201e\u00ab\u2039\u00bf\u00a1"
)
"""What may stand right before a word: blanks, dashes, brackets, and quotation marks of any kind,
among them the apostrophe behind which French and Italian write a name."""
_UNSPACED = (
    range(0x0E00, 0x0F00),  # Thai, Lao
    range(0x1000, 0x10A0),  # Myanmar
    range(0x1780, 0x1800),  # Khmer
    range(0x2E80, 0xA4D0),  # Chinese characters, kana and their punctuation
    range(0xF900, 0xFB00),
    range(0xFF01, 0xFFE0),  # wide Latin letters, narrow kana
    range(0x20000, 0x40000),
)
"""Scripts without blanks between words."""
_ENDS_OF_OPENINGS = frozenset(
    character.encode()[start:]
    for character in _OPENINGS
    for start in range(1, len(character.encode()))
)
"""What follows where a character is split between tokens."""
_LONGEST_CHARACTER = 4
"""Bytes of a character in UTF-8 at most."""


@dataclass(frozen=True)
class TokenTexts:
    """Ordinary tokens, whose texts are not always whole characters of UTF-8.

    Attributes:
        token_of: tokens by their bytes; all beginnings of such bytes are there as well, with -1
            where they are no token.
        is_glued: for each token, whether it goes on with the word before it.
        opens: for each token, whether a word may begin right behind it without a blank. This is
            not known of a Chinese character that is split between tokens.
    """

    token_of: Mapping[bytes, int]
    is_glued: Sequence[bool]
    opens: Sequence[bool]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> "TokenTexts":
        """
        Args:
            texts: by token; empty where a token stands for nothing.
        """
        beginnings = {text[:end]: -1 for text in texts for end in range(1, len(text))}
        tokens = {text: token for token, text in enumerate(texts) if text}
        return cls(beginnings | tokens, tuple(map(_goes_on, texts)), tuple(map(_opens, texts)))


def is_unspaced(character: str) -> bool:
    """Whether a character's script has no blanks between words."""
    return any(ord(character) in script for script in _UNSPACED)


def goes_on(byte: int) -> bool:
    """Whether text that begins with a byte goes on with the word before it. Punctuation outside
    ASCII begins with 0xC2 and 0xE2, and what follows up to 0xE9, or 0xEF, are scripts without
    blanks."""
    if byte < 0x80:
        return chr(byte).isalnum()
    return byte != 0xC2 and byte != 0xEF and not 0xE2 <= byte <= 0xE9


def _goes_on(text: bytes) -> bool:
    first = text[:_LONGEST_CHARACTER].decode(errors="ignore")[:1]
    is_whole = bool(first) and text.startswith(first.encode())
    return bool(text) and goes_on(text[0]) and not (is_whole and is_unspaced(first))


def _opens(text: bytes) -> bool:
    last = text[-_LONGEST_CHARACTER:].decode(errors="ignore")[-1:]
    if last and text.endswith(last.encode()):
        return last in _OPENINGS or is_unspaced(last)
    return text in _ENDS_OF_OPENINGS
