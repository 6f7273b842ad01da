"""The tensors of a Whisper checkpoint of given sizes, and their shapes."""

import math

from engine.config import ModelDimensions


def tensor_shapes(dims: ModelDimensions) -> dict[str, tuple[int, ...]]:
    """Name -> shape, for every tensor that the model reads."""
    audio, text = dims.n_audio_state, dims.n_text_state
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (audio, dims.n_mels, 3),
        "encoder.conv1.bias": (audio,),
        "encoder.conv2.weight": (audio, audio, 3),
        "encoder.conv2.bias": (audio,),
        "encoder.embed_positions.weight": (dims.n_audio_ctx, audio),
        "decoder.embed_tokens.weight": (dims.n_vocab, text),
        "decoder.embed_positions.weight": (dims.n_text_ctx, text),
    }
    shapes |= _norm("encoder.layer_norm", audio) | _norm("decoder.layer_norm", text)
    for layer in range(dims.n_audio_layer):
        shapes |= _layer(f"encoder.layers.{layer}", audio, ("self_attn",))
    for layer in range(dims.n_text_layer):
        shapes |= _layer(f"decoder.layers.{layer}", text, ("self_attn", "encoder_attn"))
    return shapes


def _layer(prefix: str, width: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes = _norm(f"{prefix}.final_layer_norm", width)
    shapes |= {f"{prefix}.fc1.weight": (4 * width, width), f"{prefix}.fc1.bias": (4 * width,)}
    shapes |= {f"{prefix}.fc2.weight": (width, 4 * width), f"{prefix}.fc2.bias": (width,)}
    for attention in attentions:
        shapes |= _norm(f"{prefix}.{attention}_layer_norm", width)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{prefix}.{attention}.{projection}.weight"] = (width, width)
            if projection != "k_proj":
                shapes[f"{prefix}.{attention}.{projection}.bias"] = (width,)
    return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def n_values(dims: ModelDimensions) -> int:
    """Number of parameters of a model: the values of all tensors that it reads."""
    return sum(math.prod(shape) for shape in tensor_shapes(dims).values())
