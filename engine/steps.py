"""The steps of decoding, as an engine asks for them of its own process or of a gang."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.decoding.sampler import Noise
from engine.request import DecodingOptions


@dataclass(frozen=True, slots=True)
class Begin:
    """Run the prompts of new sequences, in slots of one group, and sample their first tokens.

    Attributes:
        prompts, options: of each sequence.
        slots: of each sequence: the one with its window, and more if it has several texts.
        noise: for each slot, in this order.
        adapters: the number of each sequence's adapter, 0 for none; empty: none has one.
    """

    prompts: tuple[list[int], ...]
    slots: tuple[tuple[int, ...], ...]
    options: tuple[DecodingOptions, ...]
    noise: tuple[Noise | None, ...]
    adapters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decode:
    """Feed each of a group's first `n` slots its last token, and sample the next.

    Attributes:
        n_positions: positions in use in the fullest slot, including that token's.
        noise: for each slot.
        searches: the slots of each beam search of the group.
    """

    group: int
    n: int
    n_positions: int
    noise: tuple[Noise | None, ...]
    searches: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Align:
    """See how the tokens of finished texts attend to the frames of their windows, in slots of one
    group.

    Attributes:
        texts: of each sequence its start sequence and its text, without timestamps and without
            the last token, for no other is chosen by it.
        n_before: tokens of each start sequence.
        slots: the slot with each window.
        frames: the frames to look at, of each window.
        adapters: as of `Begin`.
    """

    texts: tuple[list[int], ...]
    n_before: tuple[int, ...]
    slots: tuple[int, ...]
    frames: tuple[npt.NDArray[np.int64], ...]
    adapters: tuple[int, ...] = ()
