"""`murmur finetune`: a model learns from speech with known words, and is ready to be served."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from engine import EngineError
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK
from serve.commands.progress import json_line
from serve.commands.tables import markdown, say, show
from serve.settings.config import ConfigError
from serve.settings.finetune import load_finetune_settings
from training.errors import TrainingError
from training.settings import FinetuneSettings

if TYPE_CHECKING:
    from training.run import Outcome

_NEEDED = ("peft", "jiwer", "whisper_normalizer", "matplotlib")


def finetune(path: str, dry_run: bool) -> int:
    """Run the command; returns the exit code."""
    try:
        settings = load_finetune_settings(Path(path))
        _check_packages(settings)
        return _look(settings) if dry_run else _run(settings)
    except (ConfigError, TrainingError, EngineError) as error:
        for line in str(error).splitlines():
            print(f"murmur: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _check_packages(settings: FinetuneSettings) -> None:
    """Say what is missing before anything is read."""
    needed = (*_NEEDED, *(("pandas", "pyarrow") if settings.workers > 1 else ()))
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"fine-tuning needs {', '.join(missing)}: pip install 'murmur-serve[training]'"
        )


def _run(settings: FinetuneSettings) -> int:
    from training.workers import finetune as run

    display = _Bar(settings) if sys.stderr.isatty() else _Lines()
    with display:
        outcome = run(settings, display.show)
    return _conclude(settings, outcome)


def _conclude(settings: FinetuneSettings, outcome: "Outcome") -> int:
    if not outcome.finished:
        say(f"stopped after step {outcome.step}; the same command goes on from there")
        return EXIT_INTERRUPTED
    chosen = outcome.selection
    if chosen is not None:
        head = ("words", "WER before, %", f"after step {chosen.best_step}, %")
        rows = [(n, f"{chosen.before[n]:.2f}", f"{chosen.best[n]:.2f}") for n in chosen.before]
        show(markdown(head, rows))
    print(outcome.model)
    return EXIT_OK


def _look(settings: FinetuneSettings) -> int:
    """Prepare the data, which the run needs anyway, and say what there is."""
    from engine import open_checkpoint
    from training.checkpoints import RunFiles
    from training.labels import clip_tokens
    from training.run import prepare_data

    with _Lines() as display:
        checkpoint = open_checkpoint(settings.model)
        data = prepare_data(settings, RunFiles(settings), display.show)
    rows = []
    for name, recordings in {"train": data.train, **data.validation}.items():
        n_tokens = sum(clip_tokens(checkpoint.tokenizer, recordings.clips))
        minutes = recordings.duration_s / 60
        rows.append((name, str(len(recordings.clips)), f"{minutes:.1f}", str(n_tokens)))
    show(markdown(("data", "clips", "minutes", "tokens"), rows))
    return EXIT_OK


class _Lines:
    """A JSON object for each record, on the standard error."""

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr.flush()

    def show(self, record: Mapping[str, Any]) -> None:
        print(json_line(record, sys.stderr), file=sys.stderr, flush=True)


class _Bar:
    """A bar with the loss; measurements are lines above it."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self._console = Console(file=sys.stderr, force_terminal=True, highlight=False)
        self._bar = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=settings.steps, loss="-")

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "step":
            self._bar.update(self._task, completed=record["step"], loss=f"{record['loss']:.3f}")
        elif record["kind"] == "measured":
            rates = ", ".join(f"{name} {rate:.2f} %" for name, rate in record["wer"].items())
            self._console.out(f"step {record['step']}: words wrong: {rates}", highlight=False)
        else:
            self._console.out(record["text"], highlight=False)
