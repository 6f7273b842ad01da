"""Models of known sizes with random weights, which need no files: only for speed and memory."""

from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel

from engine import Checkpoint, ModelDimensions
from engine.decoding.tokenizer import N_TIMESTAMPS, Tokenizer
from engine.weights.alignment_heads import alignment_heads
from engine.weights.random import RandomSource

_N_WORDS = 50_257
_TASKS = (
    "translate",
    "transcribe",
    "startoflm",
    "startofprev",
    "nospeech",
    "notimestamps",
)


def random_checkpoint(name: str, dims: ModelDimensions) -> Checkpoint:
    """A model whose texts never end by themselves, so that all are as long as requested."""
    tokenizer = Tokenizer(_backend(dims.n_vocab), multilingual=True)
    return Checkpoint(
        name, dims, RandomSource(dims), tokenizer, (tokenizer.eot,), (), alignment_heads(None, dims)
    )


def _backend(n_vocab: int) -> Backend:
    """Whisper's order of tokens with made-up words and languages."""
    n_languages = n_vocab - _N_WORDS - 2 - len(_TASKS) - N_TIMESTAMPS
    languages = [
        "en",
        *(f"{first}{second}" for first in "qxzwk" for second in "abcdefghijklmnopqrst"),
    ]
    names = ["endoftext", "startoftranscript", *languages[:n_languages], *_TASKS]
    names += [f"{index * 0.02:.2f}" for index in range(N_TIMESTAMPS)]
    vocabulary = [f"w{index}" for index in range(_N_WORDS)] + [f"<|{name}|>" for name in names]
    assert len(vocabulary) == n_vocab == len(set(vocabulary))
    return Backend(WordLevel({word: index for index, word in enumerate(vocabulary)}, "w0"))
