"""Options of other Whisper tools, and what they are here.

Who comes from openai/whisper, faster-whisper, WhisperX or a server around one of them types the
names that they know. An unknown name is refused; where it is one of these, the refusal says what to
use.
"""

from collections.abc import Callable

_THRESHOLDS = "the thresholds are openai/whisper's and fixed"
_DETECTION = (
    "silence is never decoded, and {vad_threshold} says from which probability it is speech"
)
_TOKENS = "the tokens that are never chosen are the model's own"

ELSEWHERE = {
    "initial_prompt": "use {prompt}, which goes with every chunk",
    "carry_initial_prompt": "{prompt} goes with every chunk",
    "hotwords": "use {keywords}",
    "condition_on_previous_text": "use {context}: 1 is without, more is with the text before",
    "prompt_reset_on_temperature": "attempts at higher temperatures never get the text before",
    "compression_ratio_threshold": _THRESHOLDS,
    "logprob_threshold": _THRESHOLDS,
    "log_prob_threshold": _THRESHOLDS,
    "no_speech_threshold": _THRESHOLDS,
    "temperature_increment_on_fallback": "it is 0.2, and a fixed {temperature} has no fallback",
    "suppress_tokens": _TOKENS,
    "suppress_blank": _TOKENS,
    "repetition_penalty": "loops are decoded again, and no token is made less likely",
    "no_repeat_ngram_size": "loops are decoded again, and no token is made less likely",
    "without_timestamps": "text is always decoded with timestamps, which show what is missing",
    "max_initial_timestamp": "it is openai/whisper's, 1 s",
    "word_timestamps": "use {words}",
    "clip_timestamps": "cut the file before, with ffmpeg's -ss and -to",
    "vad_filter": _DETECTION,
    "vad_parameters": _DETECTION,
    "vad_onset": "use {vad_threshold}",
    "vad_method": "speech is found by Silero's model",
    "language_detection_segments": "up to 3 chunks are asked for the language",
    "language_detection_threshold": "up to 3 chunks are asked, until one is sure by half",
    "chunk_length": "chunks are cut at pauses, as long as a window allows",
    "diarize": "speakers are not told apart",
    "min_speakers": "speakers are not told apart",
    "max_speakers": "speakers are not told apart",
}
"""By the name with underscores. Words in braces are options of ours, by the names in `OURS`."""
_COMMAND_ONLY = {
    "output_format": "use --format",
    "fp16": "use --precision float16, on a GPU",
    "compute_type": "use --precision",
    "model_dir": "folders of models are named as the model, and a hub's files are in HF_HOME",
    "download_root": "a hub's files are in HF_HOME",
    "cpu_threads": "use --threads",
    "device_index": "use --device cuda:1",
    "translate": "use --task translate",
    "verbose": "progress goes to the standard error, and text to the standard output",
    "print_progress": "progress goes to the standard error, and text to the standard output",
}
_FIELD = {
    "words": "timestamp_granularities[]=word",
    "context": "context_chunks",
    "vad_threshold": "chunking_strategy[threshold]",
}


def of_command(name: str) -> str | None:
    """What a flag of another tool is on the command line; None if it is not known.

    Args:
        name: as typed, such as `--initial_prompt`.
    """
    plain = name.strip("-").replace("-", "_")
    return _said(ELSEWHERE | _COMMAND_ONLY, plain, lambda ours: "--" + ours.replace("_", "-"))


def of_field(name: str) -> str | None:
    """What a form field of another server is here; None if it is not known."""
    return _said(ELSEWHERE, name, lambda ours: _FIELD.get(ours, ours))


def _said(table: dict[str, str], name: str, spelled: Callable[[str], str]) -> str | None:
    words = table.get(name)
    if words is None:
        return None
    ours = ("prompt", "keywords", "context", "temperature", "vad_threshold", "language")
    return words.format(words=spelled("words"), **{each: spelled(each) for each in ours})
