"""Options for a file's state machine: what the caller asks for, once the model is known."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from deployments.audio.tracks import TrackWish
from deployments.errors import OptionError
from deployments.options import (
    AUTO,
    BEST_BEAM_SIZE,
    ChunkingOptions,
    TranscribeOptions,
    VadOptions,
)
from deployments.tier import TierInfo
from deployments.transcript.cascade import Ladder
from deployments.transcript.coverage import CoverageOptions
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.short_window import ShortWindowOptions
from deployments.transcript.unsure import UnsureOptions
from engine import DecodingOptions, language_code
from engine.request import MAX_BOOST

_MAX_PROMPT_CHARACTERS = 8_000
"""The engine takes only 223 tokens of a prompt, but to find them it would read all of a longer
prompt for each chunk."""
_MAX_KEYWORD_CHARACTERS = 1_000
_MAX_KEYWORDS_CHARACTERS = 50_000
"""Of all keywords: some five thousand. The automaton of so many is built in about a second."""
_MAX_MULTILINGUAL_S = 12.0
_KEYWORD_ENDS = re.compile(r"[,\n]")
_WEIGHT = re.compile(r"(.*\S) :(\d+(?:\.\d*)?|\.\d+)")


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """What a caller asks for in one file.

    Args:
        decoding: options of every chunk. If its language is None, the file's first speech decides
            the language of the whole file. Temperatures are those of `fallback`, and previous
            tokens come from the file itself, so neither may be set here.
        fallback: when to decode again.
        detections: number of chunks that may be asked for the language, one after another, until
            one is sure of it (a probability of one half).
        tail_s: speech that a chunk leaves without text is decoded again if it is longer than this.
        coverage: when a text has too few words for its speech and is decoded again, too.
        short_window: when the text of a short window is not taken, and the whole one is decoded.
            Which windows are short is a matter of the engine.
        unsure: when a greedy text is unsure, and with how many beams the chunk is decoded again.
        ladder: tiers among which chunks may move up; None: all chunks go to one tier. It needs
            `context_chunks` 1, because a tier's tokens mean something else to another tier.
        context_chunks: length of a row of chunks that are decoded one after another, each with the
            text of those before it as its prompt; rows run side by side. 1: every chunk is on its
            own, and all are decoded at once.
        track: which of several audio tracks; see `TrackWish`.
        multilingual: whether each chunk may be in another language. It needs `context_chunks` 1,
            because a model goes on in the language of the text before, and no language.
        hallucination_silence_threshold: text that looks made up is dropped if there are no words
            for more than so many seconds before and after it; None: nothing is. It needs the words
            of `decoding`.
        with_words: whether results keep the words of `decoding`.
        only_language: find out the file's language and no text. All of its first `detections`
            chunks are asked, and what follows them is not read.
    """

    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    fallback: FallbackOptions = field(default_factory=FallbackOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    vad: VadOptions = field(default_factory=VadOptions)
    detections: int = 3
    tail_s: float = 1.0
    coverage: CoverageOptions = field(default_factory=CoverageOptions)
    short_window: ShortWindowOptions = field(default_factory=ShortWindowOptions)
    unsure: UnsureOptions = field(default_factory=UnsureOptions)
    context_chunks: int = 1
    priority: int = 0
    ladder: Ladder | None = None
    track: str | None = None
    multilingual: bool = False
    only_language: bool = False
    hallucination_silence_threshold: float | None = None
    with_words: bool = True

    def __post_init__(self) -> None:
        if self.multilingual and (self.decoding.language or self.context_chunks > 1):
            raise ValueError("multilingual goes with no language and no context")
        if self.context_chunks < 1:
            raise ValueError(f"context_chunks must be at least 1, got {self.context_chunks}")
        if self.ladder is not None and self.context_chunks > 1:
            raise ValueError("chunks that are told the text before them stay on one tier")
        if self.detections < 1:
            raise ValueError(f"detections must be at least 1, got {self.detections}")
        if self.decoding.task == "detect_language":
            raise ValueError("a file is transcribed or translated; detection is a part of both")
        if self.decoding.temperature != 0.0:
            raise ValueError("set the temperatures in fallback, not in decoding")
        if self.decoding.previous_tokens:
            raise ValueError("previous tokens come from the file: set a prompt instead")

    @property
    def track_wish(self) -> TrackWish:
        """Which of a file's audio tracks the caller asks for."""
        language, languages = self.decoding.language, self.decoding.languages
        return TrackWish(self.track, languages if language is None else (language,))


def transcription_options(asked: TranscribeOptions, info: TierInfo) -> TranscriptionOptions:
    """What a caller asks for, with a tier's model.

    Raises:
        OptionError: the model does not have the language or cannot translate, or a text is not
            valid Unicode.
    """
    if asked.task == "translate" and not info.multilingual:
        raise OptionError(f"the model {asked.model!r} is English-only: no translation", "model")
    language = None if asked.language is None else _known(asked.language, info, "language")
    only_language = asked.task == "detect_language"
    if only_language and not info.multilingual:
        raise OptionError(f"the model {asked.model!r} knows English alone", "model")
    languages = _all_known(asked.languages, info)
    if len(languages) == 1 and not only_language:
        language, languages = languages[0], ()
    one_by_one = asked.multilingual and language is None and not only_language
    multilingual = one_by_one and info.multilingual
    for option in ("beam_size", "best_of"):
        n = getattr(asked, option) or 1
        if n != AUTO and n > info.max_texts and n > 1:
            raise OptionError(
                f"{option} is {n}, and the model {asked.model!r} follows {info.max_texts} texts "
                "of a chunk at most",
                option,
            )
    keywords = _weighted_keywords(asked.keywords)
    for option, text in (("prompt", asked.prompt or ""), ("keywords", "".join(keywords))):
        if not _is_unicode(text):
            raise OptionError(f"{option} is not valid Unicode", option)
    decoding = DecodingOptions(
        task="translate" if asked.task == "translate" else "transcribe",
        language=language,
        languages=languages,
        keywords=tuple(keywords),
        keyword_weights=tuple(keywords.values()),
        keyword_boost=asked.keyword_boost,
        prompt=(asked.prompt or "")[-_MAX_PROMPT_CHARACTERS:] or None,
        beam_size=asked.beam_size if isinstance(asked.beam_size, int) else 1,
        patience=asked.patience,
        best_of=asked.best_of,
        length_penalty=asked.length_penalty,
        words=asked.words or asked.hallucination_silence_threshold is not None,
    )
    ladder = FallbackOptions().temperatures
    return TranscriptionOptions(
        decoding=decoding,
        fallback=FallbackOptions((asked.temperature,) if asked.temperature > 0 else ladder),
        chunking=_shorter(asked.chunking) if multilingual else asked.chunking,
        vad=asked.vad,
        unsure=_unsure(asked, info),
        context_chunks=1 if multilingual else asked.context_chunks,
        priority=asked.priority.rank,
        track=asked.track,
        multilingual=multilingual,
        only_language=only_language,
        hallucination_silence_threshold=asked.hallucination_silence_threshold,
        with_words=asked.words,
    )


def _unsure(asked: TranscribeOptions, info: TierInfo) -> UnsureOptions:
    """Beams for unsure texts, as many as the tier has room for."""
    n_beams = min(BEST_BEAM_SIZE, info.max_texts) if asked.beam_size == AUTO else 1
    return UnsureOptions(max(n_beams, 1))


def _shorter(chunking: ChunkingOptions) -> ChunkingOptions:
    """Chunks that seldom have two languages in them."""
    return replace(chunking, max_chunk_s=min(chunking.max_chunk_s, _MAX_MULTILINGUAL_S))


def _weighted_keywords(texts: Iterable[str]) -> dict[str, float]:
    """Each keyword once, with its weight. Commas and line breaks separate keywords, as in the
    model's prompt.

    Raises:
        OptionError: a weight or a keyword is too large, or there are too many of them.
    """
    found: dict[str, float] = {}
    for item in (item for text in texts for item in _KEYWORD_ENDS.split(text)):
        keyword, weight = " ".join(item.split()), 1.0
        if match := _WEIGHT.fullmatch(keyword):
            keyword, weight = match[1], float(match[2])
        if weight > MAX_BOOST:
            raise OptionError(
                f"a keyword's weight is 0 to {MAX_BOOST:g}, got {weight:g}", "keywords"
            )
        if len(keyword) > _MAX_KEYWORD_CHARACTERS:
            raise OptionError(
                f"a keyword has {len(keyword):,} characters; at most {_MAX_KEYWORD_CHARACTERS:,}",
                "keywords",
            )
        if keyword:
            found.setdefault(keyword, weight)
    n_characters = sum(map(len, found))
    if n_characters > _MAX_KEYWORDS_CHARACTERS:
        raise OptionError(
            f"keywords have {n_characters:,} characters; at most {_MAX_KEYWORDS_CHARACTERS:,}",
            "keywords",
        )
    return found


def _all_known(names: tuple[str, ...], info: TierInfo) -> tuple[str, ...]:
    """The codes of the names, each once; empty if one of them stands for any language."""
    codes = [_known(name, info, "languages") for name in names]
    known = [code for code in codes if code is not None]
    return tuple(dict.fromkeys(known)) if len(known) == len(codes) else ()


def _known(name: str, info: TierInfo, option: str) -> str | None:
    code = language_code(name)
    if code is not None and code not in info.languages:
        known = " ".join(sorted(info.languages))
        raise OptionError(f"unsupported language {name[:80]!r}; this model has: {known}", option)
    return code


def _is_unicode(text: str) -> bool:
    """False if a text has lone surrogates, which stand for undecodable bytes."""
    return not re.search("[\ud800-\udfff]", text)
