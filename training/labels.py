"""A window's text as tokens: what the decoder reads, and what it is to say next.

Before the text: at most 223 tokens of previous text, and the start sequence. They are given, not
learnt: their labels are masked. So a model that is tuned on one language still tells languages
apart as well as before. The end is learnt, though its token is the one that pads: masking goes by
position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine import DecodingOptions
from engine.config import TIME_PRECISION_S
from engine.decoding.tokenizer import N_TIMESTAMPS, Tokenizer
from training.errors import TrainingError
from training.manifest import Span, check
from training.recordings import Clip
from training.windows import MAX_CONTENT_TOKENS

IGNORED = -100
"""Label of a position that is not learnt; `torch.nn.functional.cross_entropy` leaves it out."""
MAX_PREVIOUS = 223


@dataclass(frozen=True, slots=True)
class Labelled:
    """Tokens of one window: `inputs[i]` is read, `labels[i]` should follow; both (n_positions,)."""

    inputs: tuple[int, ...]
    labels: tuple[int, ...]


def clip_tokens(tokenizer: Tokenizer, clips: Sequence[Clip]) -> list[int]:
    """How many tokens each clip's label has at most, times included.

    Raises:
        TrainingError: a text is too long for a window, or a language is not the model's.
    """
    faults, counts = [], []
    for clip in clips:
        spans = clip.segments or (Span(0.0, clip.duration_s, clip.text),)
        counts.append(sum(len(tokenizer.encode(" " + span.text)) + 2 for span in spans))
        if counts[-1] > MAX_CONTENT_TOKENS:
            faults.append(
                f"{clip.place}: the text has {counts[-1]} tokens, {MAX_CONTENT_TOKENS} at most"
            )
        if clip.language not in tokenizer.languages:
            faults.append(f"{clip.place}: the model does not know the language {clip.language!r}")
    check(faults)
    return counts


def labelled(
    tokenizer: Tokenizer,
    language: str,
    spans: Sequence[Span],
    timestamps: bool,
    previous: str | None,
) -> Labelled:
    """The tokens of a window.

    Args:
        spans: what is said, in seconds of the window, in order.
        timestamps: whether times are said.
        previous: text before it, as a prompt.
    """
    options = DecodingOptions(language=language, timestamps=timestamps, prompt=previous or None)
    given = tokenizer.prompt_tokens(options, MAX_PREVIOUS)
    given += tokenizer.sot_sequence(language, options)
    content: list[int] = []
    for span in spans:
        words = tokenizer.encode(" " + span.text)
        if timestamps:
            words = [_time(tokenizer, span.start_s), *words, _time(tokenizer, span.end_s)]
        content += words
    tokens = [*given, *content, tokenizer.eot]
    labels = [IGNORED] * (len(given) - 1) + tokens[len(given) :]
    if len(labels) > 448:
        raise TrainingError(f"a window has {len(labels)} tokens; {MAX_CONTENT_TOKENS} at most")
    return Labelled(tuple(tokens[:-1]), tuple(labels))


def _time(tokenizer: Tokenizer, seconds: float) -> int:
    return tokenizer.timestamp_begin + min(round(seconds / TIME_PRECISION_S), N_TIMESTAMPS - 1)
