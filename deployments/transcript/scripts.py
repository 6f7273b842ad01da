"""What a text's script says of it: how much speech it stands for, and where its words are.

Rules that count bytes, characters or spaces hold for Latin letters only. A Russian letter is two
bytes, an Indian one three, a Chinese character stands for a syllable, and Chinese, Japanese, Thai
and their like write no spaces.
"""

import re

_HAN = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"
_ARABIC_AND_HEBREW = "\u0590-\u07ff\u08a0-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_INDIC = "\u0900-\u0dff"
_SOUTH_EAST_ASIAN = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Tibetan, Burmese and Khmer."""
_UNSPACED = _HAN + _KANA + _SOUTH_EAST_ASIAN
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
"""Signs of accents and vowels, which are no letters for `re`, and all Indian scripts."""
_WORD = re.compile(rf"[{_UNSPACED}]|(?:[^\W{_UNSPACED}]|[{_MARKS}])+")
_WEIGHTS = [
    (re.compile(f"[{_HAN}]"), 3.0),
    (re.compile(f"[{_HANGUL}]"), 2.3),
    (re.compile(f"[{_INDIC}]"), 1.5),
    (re.compile(f"[{_SOUTH_EAST_ASIAN}]"), 1.3),
    (re.compile(f"[{_ARABIC_AND_HEBREW}]"), 1.2),
]
"""How many letters of Latin script one of another script stands for, from English
texts and their translations in gnome-user-docs 43.0 and Django 5.2: for an English letter there are
0.32 to 0.36 Chinese ones, 0.44 to 0.48 Korean, 0.59 to 0.77 Indian in seven languages, 0.70 Khmer,
0.77 Thai, 0.73 Hebrew and 0.88 Arabic. In Russian, Greek, Georgian, Armenian and Latin letters it
is 1.04 to 1.26, and for kana about one."""
_LETTERS_OF_DIGIT = 4.0
"""Digits are read out."""


def letters(text: str) -> float:
    """The spoken length of a text, in letters of Latin script."""
    spoken = "".join(letter for letter in text if letter.isalnum() and not letter.isdecimal())
    n_digits = sum(letter.isdecimal() for letter in text)
    counts = [(len(found.findall(spoken)), weight) for found, weight in _WEIGHTS]
    return n_digits * _LETTERS_OF_DIGIT + len(spoken) + sum(n * (w - 1) for n, w in counts)


def words(text: str) -> list[str]:
    """The words of a text in lower case. Where words are not separated, each character is one."""
    return _WORD.findall(text.lower())


def is_unspaced(letter: str) -> bool:
    """Whether a letter is of a script that writes no spaces between words."""
    return re.match(f"[{_UNSPACED}]", letter) is not None
