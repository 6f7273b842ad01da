"""`murmur detect`: which languages files are in, on this machine."""

import sys
from collections.abc import Sequence

import torch

from deployments.errors import OptionError
from deployments.local import FileDone, FileFailed, Job, LocalTranscriber
from deployments.options import TranscribeOptions
from deployments.transcript.options import transcription_options
from engine import Engine, EngineConfig, EngineError, default_precision
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from serve.commands.progress import json_line
from serve.commands.transcribe import info_of
from serve.http.formats import detection_object


def detect(files: Sequence[str], model: str, languages: tuple[str, ...], as_json: bool) -> int:
    """Print the language of each file's first speech; returns the exit code."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        asked = TranscribeOptions(model=model, task="detect_language", languages=languages)
        config = EngineConfig(device, default_precision(torch.device(device)), max_slots=4)
        engine = Engine.load(model, config)
        options = transcription_options(asked, info_of(model, engine))
    except (OptionError, EngineError, ValueError) as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    code = EXIT_OK
    jobs = [Job(file, file, options) for file in dict.fromkeys(files)]
    for event in LocalTranscriber(engine).run(jobs):
        if isinstance(event, FileFailed):
            print(f"murmur: {event.name}: {event.error}", file=sys.stderr)
            code = EXIT_BAD_INPUT
        elif isinstance(event, FileDone):
            _show(event, as_json)
    return code


def _show(event: FileDone, as_json: bool) -> None:
    found = detection_object(event.transcript)
    if as_json:
        print(json_line({"file": event.name} | found, sys.stdout), flush=True)
        return
    probability = found["probability"]
    told = "no speech" if probability is None else f"{found['language']}\t{probability:.2f}"
    print(f"{event.name}\t{told}", flush=True)
