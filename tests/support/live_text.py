"""The words of a clip as live sessions hear them: a small model hears half sentences, at times that
the machine's load decides, so one word or two may be others."""

from difflib import SequenceMatcher
from typing import NamedTuple

TEXT = (
    "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his "
    "power to do for them."
)


class Difference(NamedTuple):
    """Words of the clip that a text lacks, words that it has beyond the clip's, and others in their
    place."""

    lost: int
    put_in: int
    misheard: int


def difference(text: str) -> Difference:
    """What a text has made of the clip. Its first word, a soft `And`, does not count: behind other
    speech a small model hears it or not."""
    said, expected = _words(text), _words(TEXT)[1:]
    said = said[1:] if said[:1] == ["and"] else said
    lost = put_in = misheard = 0
    for _, i1, i2, j1, j2 in SequenceMatcher(None, expected, said, autojunk=False).get_opcodes():
        n, there = i2 - i1, j2 - j1
        lost, put_in = lost + max(0, n - there), put_in + max(0, there - n)
        misheard += min(n, there) if expected[i1:i2] != said[j1:j2] else 0
    return Difference(lost, put_in, misheard)


def is_right(text: str, n_wrong: int = 2) -> bool:
    """Whether at most so many words of the clip are others or missing, or added."""
    said, expected = _words(text), _words(TEXT)
    matched = SequenceMatcher(None, said, expected, autojunk=False).get_matching_blocks()
    equal = sum(block.size for block in matched)
    return equal >= len(expected) - n_wrong and len(said) <= len(expected) + n_wrong


def _words(text: str) -> list[str]:
    return "".join(c for c in text.lower() if c.isalnum() or c == " ").split()
