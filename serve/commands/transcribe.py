"""`murmur transcribe`: files to transcripts with one engine in this process."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deployments.audio.reading import AudioLimits
from deployments.local import FileDone, FileFailed, Job, LocalTranscriber, SegmentsReady
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import TranscriptionOptions
from engine import (
    CrossAttentionMode,
    DecodingOptions,
    Engine,
    EngineConfig,
    EngineError,
    Offload,
    Precision,
    default_precision,
    language_code,
)
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_OK, EXIT_WARNED
from serve.commands.outputs import OutputFolder, Outputs, StandardOutput
from serve.commands.progress import Progress, open_progress


def transcribe(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    files = list(dict.fromkeys(args.files))  # a file named twice is transcribed once
    try:
        options = _transcription_options(args)
        limits = AudioLimits() if args.max_duration is None else AudioLimits(args.max_duration)
        config = _engine_config(args)
    except ValueError as error:
        return _refuse(str(error))
    try:
        outputs = _open_outputs(files, args)
    except OSError as error:
        return _refuse(f"{args.output_dir}: cannot write there: {error.strerror or error}")
    try:
        engine = Engine.load(args.model, config)
        engine.tokenizer.check(options.decoding)
    except EngineError as error:
        return _refuse(str(error))
    progress = open_progress(len(files))
    try:
        with _spooled_stdin(files) as sources:
            transcriber = LocalTranscriber(engine, limits)
            jobs = [Job(file, sources.get(file, file), options) for file in files]
            return _run(transcriber, jobs, outputs, progress)
    except EngineError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _refuse(f"cannot write the transcripts: {error.strerror or error}")
    finally:
        progress.close()


def _run(
    transcriber: LocalTranscriber, jobs: list[Job], outputs: Outputs, progress: Progress
) -> int:
    exit_code = EXIT_OK
    for event in transcriber.run(jobs):
        if isinstance(event, SegmentsReady):
            outputs.segments(event.name, event.segments)
            progress.advance(event.name, event.decoded_s)
            continue
        failure = _finish(event, outputs)
        if failure is None:
            transcript = event.transcript
            for warning in transcript.warnings:
                progress.warned(event.name, warning)
            if transcript.warnings and exit_code == EXIT_OK:
                exit_code = EXIT_WARNED
            progress.done(event.name, transcript.duration_s, language=transcript.language)
        else:
            progress.failed(event.name, failure)
            exit_code = EXIT_BAD_INPUT
    return exit_code


def _finish(event: FileDone | FileFailed, outputs: Outputs) -> str | None:
    """Write a file's transcript, whole or not; returns why the file failed, if it did."""
    reason = str(event.error) if isinstance(event, FileFailed) else None
    if reason is not None and not event.transcript.segments:
        outputs.discarded(event.name)
        return reason
    try:
        outputs.finished(event.name, event.transcript)
    except BrokenPipeError:
        raise
    except OSError as error:
        return reason or f"cannot write the transcript: {error.strerror or error}"
    return reason


@contextmanager
def _spooled_stdin(files: list[str]) -> Iterator[dict[str, str]]:
    """The standard input as a file on disk, if it is asked for: memory does not hold it."""
    if "-" not in files:
        yield {}
        return
    with tempfile.NamedTemporaryFile(prefix="murmur-stdin-") as spool:
        if sys.stdin is not None:
            shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield {"-": spool.name}


def _transcription_options(args: argparse.Namespace) -> TranscriptionOptions:
    decoding = DecodingOptions(
        task=args.task,
        language=None if args.language is None else language_code(args.language),
        prompt=args.prompt,
    )
    ladder = FallbackOptions().temperatures
    fixed = args.temperature > 0 or args.no_fallback
    temperatures = (args.temperature,) if fixed else ladder
    return TranscriptionOptions(
        decoding, FallbackOptions(temperatures), context_chunks=args.context
    )


def _engine_config(args: argparse.Namespace) -> EngineConfig:
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, OSError) as error:
        raise ValueError(f"device {device!r} cannot be used: {_first_line(error)}") from error
    precision = args.precision or default_precision(torch.device(device))
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}")
    return EngineConfig(
        device,
        Precision(precision),
        args.cross_attention and CrossAttentionMode(args.cross_attention),
        args.int8_self_attention,
        max_slots=args.batch_size,
        offload=Offload(args.offload),
    )


def _open_outputs(files: list[str], args: argparse.Namespace) -> Outputs:
    if args.output_dir is None:
        return StandardOutput(files, args.format)
    return OutputFolder(files, args.format, args.output_dir)


def _refuse(reason: str) -> int:
    print(f"murmur: {reason}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
