"""A checkpoint's weights in transformers' own modules, for comparison."""

from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)
from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

from engine import Checkpoint, ModelDimensions, resolve_model


def transformers_model(checkpoint: Checkpoint) -> WhisperForConditionalGeneration:
    """The checkpoint's weights in transformers' own modules."""
    model = WhisperForConditionalGeneration(transformers_config(checkpoint.dims)).eval()
    state = {}
    for name in model.state_dict():
        if name != "proj_out.weight":
            state[name] = checkpoint.source.read(name.removeprefix("model.")).float()
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
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


def transformers_pipeline(checkpoint: Checkpoint) -> AutomaticSpeechRecognitionPipeline:
    """transformers' speech recognition with that model, in float32 on the CPU."""
    model = transformers_model(checkpoint)
    model.generation_config = _generation_config(checkpoint)
    file = resolve_model(checkpoint.name) / "tokenizer.json"
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(file), pad_token=end, eos_token=end)
    features = WhisperFeatureExtractor(feature_size=checkpoint.dims.n_mels)
    return AutomaticSpeechRecognitionPipeline(
        model=model, tokenizer=tokenizer, feature_extractor=features, device="cpu"
    )


def _generation_config(checkpoint: Checkpoint) -> GenerationConfig:
    tokenizer = checkpoint.tokenizer
    config = GenerationConfig(
        bos_token_id=tokenizer.eot,
        eos_token_id=tokenizer.eot,
        pad_token_id=tokenizer.eot,
        decoder_start_token_id=tokenizer.sot,
        no_timestamps_token_id=tokenizer.no_timestamps,
        prev_sot_token_id=tokenizer.sot_prev,
        suppress_tokens=list(checkpoint.suppress_tokens),
        begin_suppress_tokens=list(checkpoint.begin_suppress_tokens),
        max_initial_timestamp_index=50,
        max_length=checkpoint.dims.n_text_ctx,
        is_multilingual=tokenizer.multilingual,
        return_timestamps=True,
    )
    if tokenizer.multilingual:
        config.lang_to_id = {f"<|{code}|>": i for code, i in tokenizer.languages.items()}
        config.task_to_id = {
            "transcribe": tokenizer.transcribe,
            "translate": tokenizer.translate,
        }
    return config
