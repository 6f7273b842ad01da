"""The leader's orders to ranks, and their answers. All are small, except for a window's samples.

Every rank of a stage gets the same orders in the same sequence. Tensor rank 0 of a stage answers
orders for the stage; every rank sends its own reports, signs of life and failures.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.parallel.traffic import Kind
from engine.steps import Align, Begin, Decode


@dataclass(frozen=True, slots=True)
class Expect:
    """Prepare to receive a batch of `n` windows, of `n_frames` frames each, from another stage."""

    batch: int
    n: int
    n_frames: int


@dataclass(frozen=True, slots=True)
class Encode:
    """Run a batch of windows through encoder layers of the stage.

    Attributes:
        start, stop: the layers, counted from the stage's first.
        n_frames: of each window.
        adapter: the number of the windows' adapter, 0 for none.
        pcm: the windows' samples, where encoding begins.
    """

    batch: int
    start: int
    stop: int
    n_frames: int
    adapter: int
    pcm: tuple[npt.NDArray[np.int16], ...] | None = None


@dataclass(frozen=True, slots=True)
class Fill:
    """Compute the cross-attention of an encoded batch into slots."""

    batch: int
    slots: tuple[int, ...]
    adapter: int


@dataclass(frozen=True, slots=True)
class Detect:
    """Detect the language of a slot's window."""

    slot: int
    adapter: int


@dataclass(frozen=True, slots=True)
class Release:
    """A slot's sequence has ended."""

    slot: int


@dataclass(frozen=True, slots=True)
class Report:
    """Answer with a `RankReport`, and count from zero again."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer at once, whatever else is under way."""


@dataclass(frozen=True, slots=True)
class Close:
    """End."""


Order = Expect | Encode | Fill | Detect | Begin | Decode | Align | Release | Report | Ping | Close


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a Ping."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The layers of an Encode order are done."""

    batch: int


@dataclass(frozen=True, slots=True)
class Values:
    """The result of a Detect, Begin, Decode or Align order, as `engine.executor` describes it."""

    columns: tuple[npt.NDArray[np.generic], ...]


@dataclass(frozen=True, slots=True)
class RankReport:
    """What a rank did since the last report.

    Attributes:
        elapsed_s: time since then.
        idle_s: time without an order, or waiting for a tensor from another stage.
        collective_s: time in collectives of its tensor-parallel group. Over NCCL, which only
            launches them, neither time includes what the GPU waits for.
        calls, sent_bytes: by kind, as `engine.parallel.traffic` counts them.
        device_bytes: weights and slots on the device.
        bare_rss_bytes, rss_bytes, peak_rss_bytes: the process's resident memory before it had
            weights, now, and at its peak.
    """

    rank: int
    elapsed_s: float
    idle_s: float
    collective_s: float
    calls: dict[Kind, int]
    sent_bytes: dict[Kind, int]
    device_bytes: int
    bare_rss_bytes: int
    rss_bytes: int
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The rank ends because of this."""

    reason: str
    is_input: bool = False
    """The fault lies in what was asked for, such as the model or the sharding."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rank has its weights. `fingerprint` tells checkpoints apart; `host` is its address."""

    fingerprint: str
    host: str


Answer = Pong | Loaded | Encoded | Values | RankReport | Failed
