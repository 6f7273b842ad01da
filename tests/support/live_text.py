"""The words of a clip as live sessions hear them: a small model hears half sentences, at times that
the machine's load decides, so one word or two may be others."""

from difflib import SequenceMatcher

TEXT = (
    "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his "
    "power to do for them."
)


def is_right(text: str, n_wrong: int = 2) -> bool:
    """Whether at most so many words of the clip are others or missing, or added."""
    said, expected = _words(text), _words(TEXT)
    matched = SequenceMatcher(None, said, expected, autojunk=False).get_matching_blocks()
    equal = sum(block.size for block in matched)
    return equal >= len(expected) - n_wrong and len(said) <= len(expected) + n_wrong


def _words(text: str) -> list[str]:
    return "".join(c for c in text.lower() if c.isalnum() or c == " ").split()
