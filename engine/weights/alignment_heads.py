"""The decoder's heads whose cross-attention follows the audio, by which words get their times.

A checkpoint's files name them (`alignment_heads`). For weights of OpenAI's sizes whose files do
not, they are those that OpenAI published with its models. For others, all heads of the later half
of the layers are taken. Source: openai-whisper 20250625, `_ALIGNMENT_HEADS` of whisper/__init__.py
and `Whisper.__init__` of whisper/model.py.
"""

from engine.config import ModelDimensions
from engine.errors import WeightsError

_BETTER = {
    "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4": "2.1 3.4",
}
"""Published heads, and those that were measured to be better. tiny.en's published ones follow the
audio a quarter of a second late (docs/decisions.md)."""

Heads = tuple[tuple[int, int], ...]
"""(layer, head) pairs."""

_PUBLISHED = {
    (4, 384, 51_864, 80): "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    (4, 384, 51_865, 80): "2.2 3.0 3.2 3.3 3.4 3.5",
    (6, 512, 51_864, 80): "3.3 4.7 5.1 5.5 5.7",
    (6, 512, 51_865, 80): "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    (12, 768, 51_864, 80): "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 "
    "10.11 11.2 11.4",
    (12, 768, 51_865, 80): "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    (24, 1024, 51_864, 80): "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 "
    "18.15 20.0 20.3 20.9 20.14 21.12",
    (24, 1024, 51_865, 80): "13.15 15.4 15.15 16.1 20.0 23.4",
    (32, 1280, 51_865, 80): "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 "
    "21.3 22.3 22.9 22.12 23.5 23.7 23.13 25.5 26.1 26.12 27.15",
    (32, 1280, 51_866, 128): "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    (4, 1280, 51_866, 128): "2.4 2.11 3.3 3.6 3.11 3.14",
}
"""By decoder layers, width, vocabulary and mel bins. large-v1 counts as large-v2."""


def alignment_heads(listed: object, dims: ModelDimensions) -> Heads:
    """The heads that a checkpoint's files list, or else those that its sizes stand for.

    Args:
        listed: `alignment_heads` of the files; None if they have none.

    Raises:
        WeightsError: the list holds what are no heads of the model.
    """
    heads = _listed(listed, dims) if listed is not None else published_heads(dims)
    name = " ".join(f"{layer}.{head}" for layer, head in heads)
    return _pairs(_BETTER[name]) if name in _BETTER else heads or _later_half(dims)


def _listed(listed: object, dims: ModelDimensions) -> Heads:
    if not isinstance(listed, list) or not listed:
        raise WeightsError(f"alignment_heads is no list of heads: {listed!r}")
    heads = []
    for pair in listed:
        if not _is_head(pair, dims):
            raise WeightsError(f"alignment_heads names what is no head of this model: {pair!r}")
        heads.append((pair[0], pair[1]))
    return tuple(sorted(set(heads)))


def _is_head(pair: object, dims: ModelDimensions) -> bool:
    if not isinstance(pair, list) or [type(n) for n in pair] != [int, int]:
        return False
    layer, head = pair
    return layer in range(dims.n_text_layer) and head in range(dims.n_text_head)


def published_heads(dims: ModelDimensions) -> Heads:
    """Those that OpenAI published for models of these sizes; empty for other sizes."""
    key = (dims.n_text_layer, dims.n_text_state, dims.n_vocab, dims.n_mels)
    return _pairs(_PUBLISHED.get(key, ""))


def _pairs(text: str) -> Heads:
    pairs = [item.split(".") for item in text.split()]
    return tuple((int(layer), int(head)) for layer, head in pairs)


def _later_half(dims: ModelDimensions) -> Heads:
    layers = range(dims.n_text_layer // 2, dims.n_text_layer)
    return tuple((layer, head) for layer in layers for head in range(dims.n_text_head))
