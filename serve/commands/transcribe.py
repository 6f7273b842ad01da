"""`murmur transcribe`: transcribes files with one engine in this process."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from deployments.audio.reading import AudioLimits
from deployments.audio.report import MADE_UP
from deployments.errors import OptionError
from deployments.local import FileDone, FileFailed, Job, LocalTranscriber, SegmentsReady
from deployments.options import AUTO, BEST_BEAM_SIZE, TranscribeOptions, VadOptions
from deployments.tier import TierInfo
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import transcription_options
from engine import (
    CrossAttentionMode,
    Engine,
    EngineConfig,
    EngineError,
    Offload,
    Precision,
    Window,
    default_precision,
)
from serve.commands.arguments import TranscribeArguments
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_OK, EXIT_WARNED
from serve.commands.outputs import OutputFolder, Outputs, StandardOutput
from serve.commands.progress import Progress, Writer, open_progress
from serve.http.cue_limits import CueLimits
from serve.http.lines import TIMED_BY_WORDS


def transcribe(args: TranscribeArguments) -> int:
    """Run the command; returns the exit code."""
    files = list(dict.fromkeys(args.files))  # a file named twice is transcribed once
    progress = open_progress(len(files))
    try:
        asked, fallback = asked_options(args), _fallback(args)
        limits = AudioLimits() if args.max_duration is None else AudioLimits(args.max_duration)
        config = engine_config(args)
    except (OptionError, ValueError) as error:
        return _refuse(str(error))
    try:
        outputs = _open_outputs(files, args, progress.text())
    except OSError as error:
        return _refuse(f"{args.output_dir}: cannot write there: {error.strerror or error}")
    try:
        engine = Engine.load(args.model, config)
        wanted = transcription_options(asked, info_of(args.model, engine))
        context_chunks = 1 if wanted.multilingual else args.context
        options = replace(wanted, fallback=fallback, context_chunks=context_chunks)
    except (OptionError, EngineError) as error:
        return _refuse(str(error))
    progress.start()
    try:
        with _spooled_stdin(files) as sources:
            transcriber = LocalTranscriber(engine, limits)
            jobs = [Job(file, sources.get(file, file), options) for file in files]
            return _run(transcriber, jobs, outputs, progress)
    except EngineError as error:
        progress.close()
        return _refuse(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        progress.close()
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
            missing = any(warning.code != MADE_UP for warning in transcript.warnings)
            if missing and exit_code == EXIT_OK:
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
    """Copy the standard input to a file on disk, if it is asked for: it may not fit into memory."""
    if "-" not in files:
        yield {}
        return
    with tempfile.NamedTemporaryFile(prefix="murmur-stdin-") as spool:
        if sys.stdin is not None:
            shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield {"-": spool.name}


def asked_options(args: TranscribeArguments) -> TranscribeOptions:
    """The options for each file, as a server's caller would give them.

    Raises:
        ValueError: a value is not allowed.
    """
    named = _split(args.language)
    return TranscribeOptions(
        model=args.model,
        task=args.task,
        languages=() if _is_open(named) else named,
        multilingual=args.multilingual,
        prompt=args.prompt,
        keywords=_split(args.keywords),
        keyword_boost=args.keyword_boost,
        beam_size="auto" if args.beam_size == AUTO else int(args.beam_size),
        patience=args.patience,
        best_of=args.best_of,
        length_penalty=args.length_penalty,
        words=args.words or args.format in TIMED_BY_WORDS,
        hallucination_silence_threshold=args.hallucination_silence_threshold,
        vad=VadOptions(threshold=args.vad_threshold),
        track=args.track,
    )


def _is_open(languages: Sequence[str]) -> bool:
    """Whether the language is to be detected among all."""
    return any(name.lower() == "auto" for name in languages)


def _split(values: Sequence[str] | None) -> tuple[str, ...]:
    """Values between commas or given repeatedly: `a,b` means the same as `a` and `b`."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def _fallback(args: TranscribeArguments) -> FallbackOptions:
    if args.temperature > 0 or args.no_fallback:
        return FallbackOptions((args.temperature,))
    return FallbackOptions()


def info_of(model: str, engine: Engine) -> TierInfo:
    """What an engine in this process can do."""
    return TierInfo(
        model=model,
        precision=engine.config.precision.value,
        languages=tuple(engine.tokenizer.languages),
        multilingual=engine.tokenizer.multilingual,
        max_slots=engine.config.max_slots,
        max_texts=engine.max_texts,
    )


def engine_config(args: TranscribeArguments) -> EngineConfig:
    """The engine for a run of the command.

    Raises:
        ValueError: the device cannot be used.
    """
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, OSError) as error:
        raise ValueError(f"device {device!r} cannot be used: {_first_line(error)}") from error
    precision = args.precision or default_precision(torch.device(device))
    return EngineConfig(
        device,
        Precision(precision),
        None if args.cross_attention is None else CrossAttentionMode(args.cross_attention),
        args.int8_self_attention,
        max_slots=args.batch_size or _slots_for(args.beam_size, args.best_of, args.temperature),
        offload=Offload(args.offload),
        window=Window(args.window),
    )


def _slots_for(beam_size: str, best_of: int, temperature: float) -> int:
    """Places for so many texts that a step of the decoder pays: those of eight chunks, where each
    has several, within what takes not much more memory than the 24 of a greedy run."""
    n_beams = BEST_BEAM_SIZE if beam_size == AUTO else int(beam_size)
    n_texts = n_beams if temperature == 0.0 else best_of
    return max(24, min(8 * n_texts, 40))


def _open_outputs(files: list[str], args: TranscribeArguments, text: Writer) -> Outputs:
    limits = CueLimits(
        args.max_line_width,
        args.max_line_count,
        args.max_words_per_line,
        args.max_cue_s,
        args.highlight_words,
    )
    if args.output_dir is None:
        return StandardOutput(files, args.format, text, limits)
    return OutputFolder(files, args.format, args.output_dir, limits)


def _refuse(reason: str) -> int:
    print(f"murmur: {reason}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
