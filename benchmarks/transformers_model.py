"""A checkpoint's weights in transformers' own modules, for comparison."""

from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperTokenizerFast
from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

from engine import Checkpoint, resolve_model
from training.transformers_model import transformers_config, transformers_model

__all__ = ["transformers_config", "transformers_model", "transformers_pipeline"]


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
