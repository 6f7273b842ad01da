"""A checkpoint's weights in transformers' own modules, which have a backward pass."""

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from engine import Checkpoint, ModelDimensions


def transformers_model(checkpoint: Checkpoint) -> WhisperForConditionalGeneration:
    """The checkpoint's weights, in float32 on the CPU, ready for inference."""
    model = WhisperForConditionalGeneration(transformers_config(checkpoint.dims)).eval()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name != "proj_out.weight":  # that of the embedding
                weight.copy_(checkpoint.source.read(name.removeprefix("model.")))
    return model


def transformers_config(dims: ModelDimensions) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        d_model=dims.n_text_state,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=4 * dims.n_text_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
