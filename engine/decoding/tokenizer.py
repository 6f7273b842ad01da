"""Whisper's tokens: special ids by name, prompts, and text from ids."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as Backend

from engine.decoding.keyword_graph import KeywordGraph
from engine.decoding.token_texts import TokenTexts
from engine.errors import RequestError, WeightsError
from engine.request import DecodingOptions

N_TIMESTAMPS = 1501
"""0 to 30 s in steps of 20 ms; they end the vocabulary."""
_LONGEST_WORD = 16
"""Tokens of a text without a blank from which on it is taken for one that writes none."""
_MAX_GRAPHS = 16
"""Graphs of keywords that are kept: files of one caller often have the same ones."""
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")


class Tokenizer:
    """A `tokenizers` tokenizer with Whisper's special tokens.

    Args:
        backend: byte-level BPE with the special tokens added.
        multilingual: whether the model takes language and task tokens; English-only models
            carry those tokens in their vocabulary but were not trained with them.
    """

    def __init__(self, backend: Backend, multilingual: bool) -> None:
        self._backend = backend
        self.multilingual = multilingual
        self.sot = self._id("<|startoftranscript|>")
        self.eot = self._id("<|endoftext|>")
        self.sot_prev = self._id("<|startofprev|>")
        self.transcribe = self._id("<|transcribe|>")
        self.translate = self._id("<|translate|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self.no_speech = self._id("<|nospeech|>", "<|nocaptions|>")
        self.timestamp_begin = self.no_timestamps + 1
        self._graphs: dict[tuple[tuple[str, float], ...], KeywordGraph] = {}

    @classmethod
    def load(cls, folder: Path, multilingual: bool) -> "Tokenizer":
        """From `tokenizer.json`, else from a slow tokenizer's files through transformers."""
        file = folder / "tokenizer.json"
        if file.exists():
            return cls(_read_backend(file), multilingual)
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            from transformers import WhisperTokenizerFast  # slow to import, rarely needed

            try:
                fast = WhisperTokenizerFast.from_pretrained(str(folder))
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise WeightsError(f"{folder}: vocab.json and merges.txt: {error}") from error
            return cls(fast.backend_tokenizer, multilingual)
        raise WeightsError(f"{folder}: no tokenizer.json (nor vocab.json and merges.txt)")

    @cached_property
    def languages(self) -> dict[str, int]:
        """ISO code -> token id, in the order of the ids; only English for an English-only model."""
        found = {}
        for token_id in range(self.sot + 1, self.no_timestamps):
            match = _LANGUAGE.fullmatch(self._backend.id_to_token(token_id) or "")
            if match:
                found[match[1]] = token_id
        return found if self.multilingual else {"en": found.get("en", self.sot)}

    def check(self, options: DecodingOptions) -> None:
        """Raises RequestError for a language, task or token that the model does not know."""
        if options.task == "translate" and not self.multilingual:
            raise RequestError("this model is English-only and cannot translate")
        if not all(self._may_stand_in_a_prompt(token) for token in options.previous_tokens):
            raise RequestError("previous_tokens must be text and timestamp tokens of this model")
        if not all(0 <= token < self.eot for token in options.prefix):
            raise RequestError("a prefix must be text tokens of this model")
        named = options.languages if options.language is None else (options.language,)
        for language in named:
            if language not in self.languages:
                known = " ".join(sorted(self.languages))
                raise RequestError(f"unsupported language {language!r}; this model has: {known}")

    def sot_sequence(self, language: str, options: DecodingOptions) -> list[int]:
        """The tokens that tell the decoder what to do."""
        tokens = [self.sot]
        if self.multilingual:
            task = self.translate if options.task == "translate" else self.transcribe
            tokens += [self.languages[language], task]
        if not options.timestamps:
            tokens.append(self.no_timestamps)
        return tokens

    def prompt_tokens(self, options: DecodingOptions, limit: int) -> list[int]:
        """Behind `<|startofprev|>` at most `limit` tokens: as many of the keywords as fit in half
        of them, and the end of prompt and previous tokens. Nothing where there are none."""
        if limit <= 0:
            return []
        told = options.keywords if options.keywords_in_prompt else ()
        keywords = self._keyword_tokens(told, limit // 2)
        room = limit - len(keywords)
        before = self._last_words((options.prompt or "").strip(), room)
        tokens = [*keywords, *[*before, *options.previous_tokens][-room:]]
        return [self.sot_prev, *tokens] if tokens else []

    def encode(self, text: str) -> list[int]:
        """Ordinary text; special tokens in it are not read as such."""
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [token for token in ids if token < self.eot]

    def keyword_graph(self, options: DecodingOptions) -> KeywordGraph | None:
        """The keywords that decoding is to favour; None if there are none."""
        if not options.keywords or not options.keyword_boost:
            return None
        weights = options.keyword_weights or (1.0,) * len(options.keywords)
        weighted = tuple(
            (keyword, weight * options.keyword_boost)
            for keyword, weight in zip(options.keywords, weights, strict=True)
            if weight
        )
        if not weighted:
            return None
        graph = self._graphs.pop(weighted, None) or KeywordGraph(weighted, self.token_texts)
        self._graphs[weighted] = graph  # last, so that those not used for long are first
        if len(self._graphs) > _MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return graph

    @cached_property
    def token_texts(self) -> TokenTexts:
        """What each ordinary token stands for."""
        return TokenTexts.of(self.vocabulary)

    @cached_property
    def vocabulary(self) -> tuple[bytes, ...]:
        """What each ordinary token stands for, by id: not always whole characters of UTF-8."""
        letters = _letters_of_bytes()
        names = (self._backend.id_to_token(token) or "" for token in range(self.eot))
        return tuple(bytes(letters[letter] for letter in name) for name in names)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the ordinary tokens; special and timestamp tokens are left out."""
        return str(self._backend.decode([token for token in tokens if token < self.eot]))

    def _keyword_tokens(self, keywords: Sequence[str], limit: int) -> list[int]:
        """` one, two, three.`: the first keywords, each whole, for which there is room."""
        tokens: list[int] = []
        for keyword in keywords:
            if len(tokens) >= limit - 2:
                break
            word = self.encode((", " if tokens else " ") + keyword)
            if len(tokens) + len(word) < limit:  # the full stop, too
                tokens += word
        return [*tokens, *self.encode(".")] if tokens else []

    def _last_words(self, text: str, limit: int) -> list[int]:
        """The end of a text, from the beginning of a word on, or of a character in a script without
        blanks."""
        tokens = self.encode(" " + text) if text else []
        if len(tokens) <= limit:
            return tokens
        tail = tokens[-limit:]
        parts = [self.vocabulary[token] for token in tail[:_LONGEST_WORD]]
        words = (n for n, part in enumerate(parts) if part.startswith(b" "))
        characters = (n for n, part in enumerate(parts) if part and part[0] & 0xC0 != 0x80)
        return tail[next(words, next(characters, 0)) :]

    def _may_stand_in_a_prompt(self, token: int) -> bool:
        return 0 <= token < self.eot or 0 <= token - self.timestamp_begin < N_TIMESTAMPS

    def _id(self, *names: str) -> int:
        for name in names:
            token_id = self._backend.token_to_id(name)
            if token_id is not None:
                return int(token_id)
        raise WeightsError(f"the tokenizer lacks the token {names[0]}")


def _letters_of_bytes() -> dict[str, int]:
    """How byte-level BPE writes bytes as letters (GPT-2's `bytes_to_unicode`): printable ones of
    Latin-1 as themselves, the others as the letters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


def _read_backend(file: Path) -> Backend:
    try:
        return Backend.from_file(str(file))
    except Exception as error:  # the library raises nothing more particular
        raise WeightsError(f"{file}: not a tokenizer: {error}") from error
