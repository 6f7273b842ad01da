"""A fine-tuning run as one worker goes through it.

A plain loop: everything that a run needs to go on after a loss is the weights that learn, the
optimiser and the step, for what is drawn at random depends on the numbers of windows alone
(`training.windows`). So a run that was killed ends with the same weights as one that was not.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine import open_checkpoint
from engine.audio.features import LogMel
from training import curves
from training.batches import Batches, Sounds
from training.checkpoints import RunFiles
from training.errors import TrainingError
from training.evaluation import measure
from training.export import Origin, export, export_adapter
from training.labels import clip_tokens
from training.manifest import read_manifest
from training.mirror import Mirror, tried
from training.model import Learner, lora_config
from training.optimiser import optimiser
from training.recordings import Recordings, join_rows, prepare
from training.selection import MEASURED, STEPPED, Selection, selection
from training.settings import AugmentSettings, FinetuneSettings, TrainingPrecision, WindowSettings
from training.windows import Windows
from training.world import World

Say = Callable[[Mapping[str, Any]], None]
"""Gets each record of the history, and `{"kind": "note", "text": ...}`."""

_N_LOSS_WINDOWS = 8
_PLAIN = WindowSettings(timestamps=0.5, previous_text=0.0, packed=1.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        finished: False: it was asked to stop, and can go on.
        loss: of the last step.
        selection: None without validation sets.
        model: the result's folder, of a run that finished.
    """

    finished: bool
    step: int
    loss: float
    selection: Selection | None
    model: Path | None

    def as_values(self) -> dict[str, Any]:
        """As plain values, which cross processes."""
        return asdict(self) | {"model": None if self.model is None else str(self.model)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Outcome":
        chosen, model = values["selection"], values["model"]
        return cls(
            finished=values["finished"],
            step=values["step"],
            loss=values["loss"],
            selection=None if chosen is None else Selection(**chosen),
            model=None if model is None else Path(model),
        )


@dataclass(frozen=True)
class Data:
    """Prepared clips, for training and by the names of the validation sets."""

    train: Recordings
    validation: dict[str, Recordings]


def prepare_data(settings: FinetuneSettings, files: RunFiles, say: Say) -> Data:
    """Decode what has not been decoded yet.

    Raises:
        TrainingError: faults of the manifests and their files.
    """

    def opened(manifests: tuple[Path, ...]) -> Recordings:
        rows = join_rows(manifests, read_manifest)
        folder = prepare(rows, files.data, settings.language, lambda text: _note(say, text))
        return Recordings(folder)

    return Data(
        train=opened(settings.train),
        validation={each.name: opened((each.manifest,)) for each in settings.validation},
    )


class Run:
    """One worker's part of a run.

    Args:
        say: of the worker that leads.
        stop: asked after each step whether to stop early, with a checkpoint.
    """

    def __init__(
        self, settings: FinetuneSettings, world: World, say: Say, stop: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._world = world
        self._say = say
        self._stop = stop
        self._files = RunFiles(settings)
        self._mirror = None
        if settings.mirror is not None and world.leads:
            self._mirror = Mirror(settings.mirror, self._files)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self._checkpoint = open_checkpoint(settings.model)
        self._data = self._prepare()
        self._windows, self._batches = self._training_data()
        torch.manual_seed(settings.seed)  # additions begin with random numbers
        self._learner = Learner(self._checkpoint, settings, world.device)
        self._model = self._distributed()
        self._optimiser = optimiser(self._learner, settings)
        fp16 = settings.precision is TrainingPrecision.FLOAT16
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=fp16)
        self._step = 0
        self._records: list[Mapping[str, Any]] = []

    def go(self) -> Outcome:
        """Go on from the last checkpoint to the end, or until asked to stop."""
        self._resume()
        if self._settings.validation and not self._records:
            self._measure()
        with ThreadPoolExecutor(1, "windows") as ahead:
            return self._go(self._sounds(ahead))

    def _go(self, sounds: Iterator[list[Sounds]]) -> Outcome:
        stopped = False
        while self._step < self._settings.steps and not stopped and not self._is_over():
            self._record_step(*self._take_step(next(sounds)))
            last = self._step == self._settings.steps
            if self._settings.validation and (
                last or not self._step % self._settings.evaluate_every
            ):
                self._measure()
            stopped = self._world.sums([float(self._stop())])[0] > 0
            if (
                last
                or stopped
                or self._is_over()
                or not self._step % self._settings.checkpoint_every
            ):
                self._save()
        return self._conclude(finished=not stopped or self._step == self._settings.steps)

    def _prepare(self) -> Data:
        """The worker that leads decodes; the others find its files."""
        if self._world.leads:
            data = prepare_data(self._settings, self._files, self._say)
            self._world.wait_for_all()
            return data
        self._world.wait_for_all()
        return prepare_data(self._settings, self._files, self._say)

    def _training_data(self) -> tuple[Windows, Batches]:
        settings, clips = self._settings, self._data.train.clips
        counts = clip_tokens(self._checkpoint.tokenizer, clips)
        for recordings in self._data.validation.values():
            clip_tokens(self._checkpoint.tokenizer, recordings.clips)
        windows = Windows(clips, counts, settings.windows, settings.augment, settings.seed)
        return windows, self._batches_of(self._data.train, settings.augment)

    def _batches_of(self, recordings: Recordings, augment: AugmentSettings | None) -> Batches:
        log_mel = LogMel(self._checkpoint.dims.n_mels, self._world.device)
        return Batches(recordings, self._checkpoint.tokenizer, log_mel, augment)

    def _distributed(self) -> nn.Module:
        if self._world.size == 1:
            return self._learner
        on_gpu = self._world.device.type == "cuda"
        return DistributedDataParallel(
            self._learner,
            device_ids=[self._world.device] if on_gpu else None,
            gradient_as_bucket_view=True,  # else there are two copies of all gradients
        )

    def _resume(self) -> None:
        if self._mirror is not None and (step := self._mirror.fetch()) is not None:
            _note(self._say, f"step {step} comes from {self._mirror.url}")
        self._world.wait_for_all()
        saved = self._files.load()
        if saved is not None:
            self._step = saved.step
            self._learner.load_learnt(saved.weights)
            self._optimiser.load_state_dict(saved.optimiser["optimiser"])
            self._scaler.load_state_dict(saved.optimiser["scaler"])
            _note(self._say, f"goes on after step {saved.step}")
        self._world.wait_for_all()
        if self._world.leads:
            self._records = list(self._files.begin_history(self._step))
        self._world.wait_for_all()
        if not self._world.leads:
            self._records = list(self._files.read_history())

    def _sounds(self, ahead: ThreadPoolExecutor) -> Iterator[list[Sounds]]:
        """The batches of each step, made while the step before it is computed."""
        step = self._step
        waiting: Future[list[Sounds]] = ahead.submit(self._sounds_of, step)
        while True:
            step += 1
            ready, waiting = waiting, ahead.submit(self._sounds_of, step)
            yield ready.result()

    def _sounds_of(self, step: int) -> list[Sounds]:
        """This worker's batches of a step. Batch j of a step is worker j % size's, so that two
        workers compute the very batches of one with twice as many."""
        settings, size = self._settings, self._settings.batch_size
        mine = range(self._world.rank, settings.accumulate * self._world.size, self._world.size)
        firsts = [step * settings.windows_per_step + batch * size for batch in mine]
        return [
            self._batches.sounds([self._windows[first + i] for i in range(size)])
            for first in firsts
        ]

    def _take_step(self, sounds: list[Sounds]) -> tuple[float, float, float]:
        """One change of the weights. Returns the loss of a token, the gradient's length and the
        learning rate."""
        rate = self._settings.learning_rate(self._step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        (n_labels,) = self._world.sums([float(sum(each.n_labels for each in sounds))])
        total = 0.0
        for index, each in enumerate(sounds):
            self._seed_dropout(index)
            batch = self._batches.batch(each)
            with self._without_exchange(index + 1 < len(sounds)):
                loss = self._model(batch.mel, batch.inputs, batch.labels)
                # Workers' gradients are averaged; what is wanted is their sum over all tokens.
                self._scaler.scale(loss * (self._world.size / n_labels)).backward()
            total += float(loss.detach())
        self._scaler.unscale_(self._optimiser)
        norm = nn.utils.clip_grad_norm_(
            self._learner.learnt().values(), self._settings.optimiser.max_grad_norm
        )
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        (total,) = self._world.sums([total])
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss of step {self._step + 1} is {total}: a lower optimiser.learning_rate "
                "may help, or a longer optimiser.warmup"
            )
        self._step += 1
        return total / n_labels, float(norm), rate

    def _seed_dropout(self, index: int) -> None:
        """By the batch's number, whoever computes it and whenever."""
        batch = index * self._world.size + self._world.rank
        seeds = np.random.SeedSequence([self._settings.seed, self._step, batch])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def _without_exchange(self, wanted: bool) -> Any:
        """Gradients that are still added up need not be exchanged."""
        if wanted and isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return nullcontext()

    def _measure(self) -> None:
        found = measure(
            self._checkpoint, self._learner.source(), self._data.validation, self._world
        )
        self._record(
            {
                "kind": MEASURED,
                "step": self._step,
                "wer": {name: words.rate for name, words in found.items()},
                "words": {name: words.words for name, words in found.items()},
                "loss": {name: self._loss(each) for name, each in self._data.validation.items()},
            }
        )
        chosen = self._selection()
        if chosen is not None and chosen.best_step == self._step and self._world.leads:
            self._files.save_best(self._step, self._learner.learnt())

    @torch.no_grad()
    def _loss(self, recordings: Recordings) -> float:
        """Mean loss of a token over a set's first windows, as they are."""
        counts = clip_tokens(self._checkpoint.tokenizer, recordings.clips)
        windows = Windows(recordings.clips, counts, _PLAIN, AugmentSettings(), 0)
        batches = self._batches_of(recordings, None)
        total = n_labels = 0.0
        self._learner.eval()
        for number in range(self._world.rank, _N_LOSS_WINDOWS, self._world.size):
            if windows.epoch_of(number):
                break
            sounds = batches.sounds([windows[number]])
            batch = batches.batch(sounds)
            total += float(self._learner(batch.mel, batch.inputs, batch.labels))
            n_labels += sounds.n_labels
        self._learner.train()
        total, n_labels = self._world.sums([total, n_labels])
        return total / max(1.0, n_labels)

    def _record_step(self, loss: float, norm: float, rate: float) -> None:
        self._record(
            {"kind": STEPPED, "step": self._step, "loss": loss, "grad_norm": norm, "rate": rate}
        )

    def _record(self, record: Mapping[str, Any]) -> None:
        self._records.append(record)
        if self._world.leads:
            self._files.append_history(record)
            self._say(record)

    def _selection(self) -> Selection | None:
        return selection(self._records, self._settings.validation)

    def _is_over(self) -> bool:
        chosen = self._selection() if self._settings.patience is not None else None
        return chosen is not None and chosen.is_over(self._settings)

    def _save(self) -> None:
        if self._world.leads:
            chosen = self._selection()
            state = {
                "optimiser": self._optimiser.state_dict(),
                "scaler": self._scaler.state_dict(),
            }
            best_step = None if chosen is None else chosen.best_step
            self._files.save(self._step, self._learner.learnt(), state, best_step)
            if self._mirror is not None:
                tried(self._mirror.push, lambda text: _note(self._say, text))
        self._world.wait_for_all()

    def _conclude(self, finished: bool) -> Outcome:
        chosen = self._selection()
        loss = next((r["loss"] for r in reversed(self._records) if r["kind"] == STEPPED), 0.0)
        model = self._files.model if finished else None
        if self._world.leads:
            if finished:
                self._export(chosen)
            title = f"{self._settings.model}, {self._settings.method}"
            curves.draw(self._records, self._files.output / "curves", title)
            if self._mirror is not None and finished:
                tried(self._mirror.push_result, lambda text: _note(self._say, text))
        self._world.wait_for_all()
        return Outcome(finished, self._step, loss, chosen, model)

    def _export(self, chosen: Selection | None) -> None:
        if chosen is not None:
            self._learner.load_learnt(self._files.load_best(chosen.best_step))
        origin = Origin(
            trained_from=self._settings.model,
            fingerprint=self._checkpoint.fingerprint,
            steps=self._step if chosen is None else chosen.best_step,
            hours=self._data.train.duration_s / 3600,
            words_before={} if chosen is None else chosen.before,
            words_after={} if chosen is None else chosen.best,
            licence=self._settings.licence,
            settings=self._settings.model_dump(mode="json"),
        )
        export(self._checkpoint, self._learner.source(), origin, self._files.model)
        if additions := self._learner.additions():
            lora = lora_config(self._settings)
            export_adapter(additions, lora, origin, self._files.adapter)


def _note(say: Say, text: str) -> None:
    say({"kind": "note", "text": text})
