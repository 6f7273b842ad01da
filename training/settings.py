"""The settings of a fine-tuning run, and their bounds.

The docstring of each field documents it; docs/configuration.md is rendered from these docstrings.
"""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]


class Method(StrEnum):
    """Which weights learn."""

    FULL = "full"
    LORA = "lora"


class EncoderMode(StrEnum):
    """Whether the encoder learns."""

    TRAINED = "trained"
    FROZEN = "frozen"


class TrainingPrecision(StrEnum):
    """Number format of products; what is learnt, its gradients and sums stay in float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Schedule(StrEnum):
    """How the learning rate goes from its peak, after the warm-up, to the last step."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ValidationSet(_Section):
    """Speech with known words on which the model is measured while it learns."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    """Its name in curves and tables."""
    manifest: Path
    """As `train`."""
    max_rise: Annotated[float, Field(ge=0)] | None = None
    """Points of word error rate that may be lost on it: weights that lose more are never chosen.
    Sets without it are those by which the best weights are chosen."""


class WindowSettings(_Section):
    """How clips become windows of 30 s and their labels."""

    timestamps: Share = 0.5
    """Share of windows whose labels have times. At 0 the model unlearns them."""
    previous_text: Share = 0.3
    """Share of windows that are told a text before them: the one that was said before, where the
    manifest knows it, else one of another clip. At 0 the model unlearns prompts."""
    packed: Share = 0.5
    """Share of windows that hold as many clips as fit, with pauses between, as a server packs
    speech; the others hold one."""
    pause_s: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.1, 1.0)
    """Shortest and longest pause between clips of a window, in seconds."""

    @model_validator(mode="after")
    def _pauses_are_a_range(self) -> "WindowSettings":
        if not self.pause_s[0] <= self.pause_s[1] <= 10:
            raise ValueError(f"pause_s {list(self.pause_s)} must rise, and not above 10")
        return self


class AugmentSettings(_Section):
    """Changes of the sound, drawn anew whenever a window is used."""

    speed: Annotated[float, Field(ge=0, le=0.3)] = 0.0
    """Clips play up to so much faster or slower, and higher or lower: 0.1 is 10 %."""
    noise: Share = 0.0
    """Share of windows with noise."""
    noise_snr_db: tuple[float, float] = (5.0, 25.0)
    """Least and greatest ratio of speech to noise, in decibels."""
    telephone: Share = 0.0
    """Share of windows that went over a telephone line: 300 to 3,400 Hz, 8 kHz, mu-law."""
    gain_db: Annotated[float, Field(ge=0, le=40)] = 0.0
    """Windows are up to so many decibels louder or quieter."""
    mask_frequencies: Annotated[int, Field(ge=0, le=40)] = 0
    """SpecAugment: the most mel bands that each of two masks hides."""
    mask_frames: Annotated[int, Field(ge=0, le=300)] = 0
    """SpecAugment: the most frames of 10 ms that each of two masks hides."""

    @model_validator(mode="after")
    def _ratios_are_a_range(self) -> "AugmentSettings":
        if self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db {list(self.noise_snr_db)} must rise")
        return self


class LoraSettings(_Section):
    """Low-rank additions to weights, which learn in their place (`method: lora`)."""

    rank: Annotated[int, Field(ge=1, le=256)] = 32
    """Rank of each addition."""
    alpha: Annotated[float, Field(gt=0)] = 64.0
    """Additions are scaled by `alpha / rank`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an addition's inputs that are left out at random."""
    layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    """Linear layers that get one: `q_proj`, `k_proj`, `v_proj`, `out_proj`, `fc1`, `fc2`."""

    @model_validator(mode="after")
    def _layers_are_known(self) -> "LoraSettings":
        known = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
        unknown = [name for name in self.layers if name not in known]
        if unknown or not self.layers:
            raise ValueError(f"layers must be some of {', '.join(known)}")
        return self


class OptimiserSettings(_Section):
    """AdamW, and its learning rate."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak; by default 1e-5 for all weights and 5e-4 for LoRA."""
    warmup: Share = 0.1
    """Share of the steps in which the rate rises to its peak."""
    schedule: Schedule = Schedule.LINEAR
    """How it goes on from there: `constant`, `linear` or `cosine`."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of matrices; biases and norms have none."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    """Decay of the means of gradients and of their squares."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """A step's gradient is cut to this length."""


class FinetuneSettings(_Section):
    """A fine-tuning run. Paths are seen from the folder in which the command runs."""

    model: Annotated[str, Field(min_length=1)]
    """What to begin with: a published model by any of its names, a folder, a hub id or a demo
    model."""
    output: Path
    """Folder of everything that the run writes. A run that was stopped goes on from there."""
    mirror: str | None = None
    """Address of a copy in object storage, such as `s3://bucket/run` (fsspec; `pip install s3fs` or
    `gcsfs`). Each checkpoint is copied there, and the result. A run whose `output` has no
    checkpoint, as on another machine, goes on from that copy."""
    train: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Manifests (`.jsonl` or `.csv`) of clips and their texts, or folders with a `manifest.jsonl`
    or `manifest.csv`."""
    validation: tuple[ValidationSet, ...] = ()
    """Speech to measure on; without any, the last weights are the result."""
    language: str = "en"
    """ISO code of clips whose row has none."""
    method: Method = Method.FULL
    """Which weights learn: all (`full`), or small additions (`lora`)."""
    encoder: EncoderMode = EncoderMode.TRAINED
    """`frozen`: only the decoder learns, in less memory and time."""
    lora: LoraSettings = LoraSettings()
    """For `method: lora`."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """How weights learn."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """Changes of the weights in all."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Windows that a worker computes at once."""
    accumulate: Annotated[int, Field(ge=1)] = 4
    """Batches of a worker whose gradients are added up for one step."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that share each step, on Ray Train: a GPU or some CPU cores each. One needs no
    Ray."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """How often workers that were lost are started again, if there are several."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` (a GPU if there is one), `cpu` or `cuda`."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of a worker; by default torch's number."""
    precision: TrainingPrecision = TrainingPrecision.FLOAT32
    """Number format of products: `float32`, `bfloat16`, or on a GPU `float16`."""
    checkpoint_activations: bool = False
    """Keep only the input of each layer for the backward pass, and compute the rest again: less
    memory, a third more arithmetic."""
    windows: WindowSettings = WindowSettings()
    """Clips to windows."""
    augment: AugmentSettings = AugmentSettings()
    """Changes of the sound."""
    evaluate_every: Annotated[int, Field(ge=1)] = 200
    """Steps between two measurements; there is one before the first step, and one after the
    last."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Steps between two checkpoints, which is what a loss of power costs at most."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Checkpoints that are kept."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Measurements without a better one after which the run ends; by default never."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything that is drawn."""
    licence: str = ""
    """Licence of the result, which is kept with it."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "FinetuneSettings":
        names = [each.name for each in self.validation]
        if len(set(names)) < len(names):
            raise ValueError("two validation sets have the same name")
        if self.validation and all(each.max_rise is not None for each in self.validation):
            raise ValueError("a validation set without max_rise is needed to choose weights by")
        if self.patience is not None and not self.validation:
            raise ValueError("patience needs a validation set")
        return self

    @model_validator(mode="after")
    def _the_device_has_the_format(self) -> "FinetuneSettings":
        if self.device == "cpu" and self.precision is TrainingPrecision.FLOAT16:
            raise ValueError("precision: a CPU trains in float32 or bfloat16, not in float16")
        return self

    @property
    def peak_learning_rate(self) -> float:
        default = 5e-4 if self.method is Method.LORA else 1e-5
        return self.optimiser.learning_rate or default

    @property
    def windows_per_step(self) -> int:
        """Of all workers."""
        return self.batch_size * self.accumulate * self.workers

    def learning_rate(self, step: int) -> float:
        """The rate of the step with that number, from 0."""
        warmup = round(self.optimiser.warmup * self.steps)
        if step < warmup:
            return self.peak_learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        left = {
            Schedule.CONSTANT: 1.0,
            Schedule.LINEAR: 1.0 - done,
            Schedule.COSINE: 0.5 * (1.0 + math.cos(math.pi * done)),
        }
        return self.peak_learning_rate * left[self.optimiser.schedule]
