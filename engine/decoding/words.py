"""Words of a text, as groups of its tokens.

As in openai/whisper (`tokenizer.split_to_word_tokens`, `timing.merge_punctuations`): a word begins
with a blank, or is a character in languages that write none, and punctuation belongs to the word
that it stands at.
"""

from collections.abc import Sequence

from engine.decoding.tokenizer import Tokenizer

UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km"})
"""Languages that separate no words. openai/whisper has all but Khmer."""
_PREPENDED = frozenset("\"'\u201c\u00bf([{-\u00a1\u00ab\u2018")
_APPENDED = frozenset(
    "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a\u201d)]}\u3001;\u2026\u00bb\u2019\u0964"
)


def split_words(tokens: Sequence[int], language: str, tokenizer: Tokenizer) -> list[list[int]]:
    """Tokens of text, without timestamps -> the tokens of each word; joined they are the text."""
    characters = _characters(tokens, tokenizer)
    if language in UNSPACED_LANGUAGES:
        parts = characters
    else:
        parts = []
        for part in characters:
            if parts and not tokenizer.vocabulary[part[0]].startswith(b" "):
                parts[-1] = parts[-1] + part
            else:
                parts.append(part)
        parts = [piece for part in parts for piece in _without_punctuation(part, tokenizer)]
    return _merged(parts, tokenizer)


def spelled(tokens: Sequence[int], tokenizer: Tokenizer, size: int) -> list[int]:
    """The text of these tokens in shorter ones: those of each `size` characters. What is no whole
    character of UTF-8 stays as it is."""
    data = b"".join(tokenizer.vocabulary[token] for token in tokens)
    if not _is_whole(data):
        return list(tokens)
    text = data.decode()
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    return [token for piece in pieces for token in tokenizer.encode(piece)] or list(tokens)


def _characters(tokens: Sequence[int], tokenizer: Tokenizer) -> list[list[int]]:
    """The fewest tokens that are whole characters of UTF-8."""
    parts: list[list[int]] = []
    pending: list[int] = []
    for token in tokens:
        pending.append(token)
        if _is_whole(b"".join(tokenizer.vocabulary[each] for each in pending)):
            parts.append(pending)
            pending = []
    return [*parts, pending] if pending else parts


def _is_whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_punctuation(tokens: list[int], tokenizer: Tokenizer) -> list[list[int]]:
    """A word, and the punctuation at its end as a part of its own, which `_merged` may move."""
    cut = len(tokens)
    while cut > 1 and _text(tokens[cut - 1 : cut], tokenizer).strip() in _APPENDED:
        cut -= 1
    return [part for part in (tokens[:cut], tokens[cut:]) if part]


def _merged(parts: list[list[int]], tokenizer: Tokenizer) -> list[list[int]]:
    """Join what has no letter or digit to the word before or after it."""
    words: list[list[int]] = []
    opening: list[int] = []
    for part in parts:
        text = _text(part, tokenizer)
        if any(map(str.isalnum, text)):
            words.append(opening + part)
            opening = []
        elif not words or set(text.strip()) <= _PREPENDED and text.startswith(" "):
            opening = opening + part
        else:
            words[-1] = words[-1] + opening + part
            opening = []
    if opening and words:
        words[-1] = words[-1] + opening
    elif opening:
        words.append(opening)
    return words


def _text(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    data = b"".join(tokenizer.vocabulary[token] for token in tokens)
    return data.decode(errors="replace")
