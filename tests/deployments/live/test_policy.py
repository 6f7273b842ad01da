"""How much of a hypothesis is final."""

import pytest

from deployments.live.policy import AlignAtt, LocalAgreement, Look, is_punctuation


def look(*pieces: str | bytes, ends_s: tuple[float, ...] = (), audio_s: float = 9.0) -> Look:
    data = tuple(p.encode() if isinstance(p, str) else p for p in pieces)
    return Look(
        tuple(abs(hash(p)) % 1_000_003 for p in data), data, (-0.1,) * len(data), ends_s, audio_s
    )


@pytest.mark.parametrize(
    ("pieces", "n", "whole"),
    [
        ((" a", " b"), 1, 1),
        ((" Dash", "wood", " had"), 1, 0),
        ((" Dash", "wood", " had"), 2, 2),
        ((" Mr", ".", " John"), 2, 1),  # punctuation waits for what follows
        ((" Mr", ".", " John"), 3, 3),
        ((" Mr", ".", " John"), 1, 1),
        ((" a", "..."), 2, 1),
        ((" it", "'s", " on"), 1, 0),
        (("\u4f60", "\u597d"), 1, 1),  # no blanks between words
        ((b"\xe4\xbd", b"\xa0", "\u597d"), 1, 0),  # half a character
        ((b"\xe4\xbd", b"\xa0", "\u597d"), 2, 2),
        (("\u597d", b"\xe4\xbd", b"\xa0"), 1, 1),
        ((" \u0434\u0430", " \u043d\u0435\u0442"), 1, 1),
        ((), 0, 0),
    ],
)
def test_words_are_whole(pieces: tuple[str | bytes, ...], n: int, whole: int) -> None:
    assert look(*pieces).whole_words(n) == whole


def test_two_looks_have_to_agree() -> None:
    policy = LocalAgreement()
    assert policy.final(look(" a", " b", " x")) == 0
    assert policy.final(look(" a", " b", " c", " y")) == 2
    assert policy.final(look(" c", " d")) == 1
    assert policy.final(look(" e", " f")) == 0
    assert policy.final(look()) == 0
    assert policy.final(look(" e")) == 0, "the look before had nothing"


def test_what_was_near_the_end_waits() -> None:
    policy = AlignAtt(0.5)
    ends_s = (0.4, 1.0, 1.2, 1.6)
    words = (" a", " b", " c", " d")
    assert policy.final(look(*words, ends_s=ends_s, audio_s=1.6)) == 2
    assert policy.final(look(*words, ends_s=ends_s, audio_s=1.75)) == 3
    assert policy.final(look(*words, ends_s=ends_s, audio_s=3.0)) == 4
    assert policy.final(look(*words, ends_s=(), audio_s=3.0)) == 0


def test_punctuation() -> None:
    assert is_punctuation(b".") and is_punctuation(b" -") and is_punctuation(b"...")
    assert not is_punctuation(b" a") and not is_punctuation(b"1") and not is_punctuation(b"\xe4")
