"""Which words of a turn that goes on are final.

A model that hears half a sentence guesses its end, and is often wrong about the last words. A
policy says how much of a hypothesis may be told. What is told never changes: it is the prefix of
the next look.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.live.options import SessionOptions
from deployments.transcript.scripts import is_unspaced

_NO_WORD = re.compile(r"[\W_]*")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at an open stretch of speech gave, behind the text that is final already.

    Attributes:
        tokens: the hypothesis.
        pieces: the bytes of each of its tokens.
        logprobs: natural logarithms of the probabilities of its tokens.
        ends_s: when the word of each token ended, in seconds from the stretch's beginning; empty if
            the words have no times.
        audio_s: length of the audio.
    """

    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]
    logprobs: tuple[float, ...]
    ends_s: tuple[float, ...]
    audio_s: float

    def whole_words(self, n: int) -> int:
        """At most `n`, so that no word is divided, and no punctuation is the end: more audio may
        change it."""
        while n > 0 and not self._may_end(n):
            n -= 1
        return n

    def _may_end(self, n: int) -> bool:
        text = _text(self.pieces[:n])
        if text is None or is_punctuation(self.pieces[n - 1]):
            return False
        following = _text(self.pieces[n : n + 1])
        if following is None:  # a part of a character
            return _text(self.pieces[n : n + 4]) is not None and is_unspaced(text[-1])
        return (
            following.startswith(" ")
            or is_punctuation(self.pieces[n] if n < len(self.pieces) else b".")
            or is_unspaced(text[-1])
        )


class Policy(Protocol):
    """Decides for one stretch of speech."""

    wants_words: bool
    """Whether looks need times of words."""

    def final(self, look: Look) -> int:
        """How many of the look's tokens are final. The next look begins behind them."""


class AlignAtt:
    """Words are final if the decoder attended to sound that ended well before the audio does
    (arXiv:2305.11408, arXiv:2406.10052). The times of words come from the decoder's attention; the
    last word always reaches the end, so it waits.

    Args:
        margin_s: how long before.
    """

    wants_words = True

    def __init__(self, margin_s: float) -> None:
        self._margin_s = margin_s

    def final(self, look: Look) -> int:
        latest_s = look.audio_s - self._margin_s
        late = (n for n, end_s in enumerate(look.ends_s) if end_s > latest_s)
        return look.whole_words(next(late, len(look.ends_s)))


class LocalAgreement:
    """Words are final if two looks in a row begin with them (LocalAgreement-2,
    arXiv:2307.14743)."""

    wants_words = False

    def __init__(self) -> None:
        self._before: tuple[int, ...] = ()

    def final(self, look: Look) -> int:
        pairs = zip(self._before, look.tokens, strict=False)
        differ = (n for n, (before, now) in enumerate(pairs) if before != now)
        n = look.whole_words(next(differ, min(len(self._before), len(look.tokens))))
        self._before = look.tokens[n:]
        return n


def new_policy(options: SessionOptions) -> Policy:
    """The policy for a new stretch of speech."""
    if options.policy == "local_agreement":
        return LocalAgreement()
    return AlignAtt(options.pace.margin_s)


def is_punctuation(piece: bytes) -> bool:
    """Whether a token has no letter or digit in it, and is no part of a character."""
    text = _text((piece,))
    return text is not None and _NO_WORD.fullmatch(text) is not None


def _text(pieces: Sequence[bytes]) -> str | None:
    """None if the pieces end, or begin, within a character."""
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError:
        return None
