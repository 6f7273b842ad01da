"""Runs an engine's operations: with the model in this process, or on a gang of ranks elsewhere."""

from collections.abc import Sequence as Seq
from typing import Protocol

from engine.config import EngineConfig
from engine.decoding.sampler import Noise
from engine.encode_ahead import Encoding, make_encoding
from engine.request import DecodingOptions
from engine.runner import ModelRunner
from engine.sequence import Sequence
from engine.transfer import Download, Pending
from engine.weights.checkpoint import Checkpoint


class Executor(Protocol):
    """Operations on slots, done in the order of the calls. No call waits for its operation: the
    values arrive later."""

    n_groups: int
    """Slot groups, each decoded as one batch: slot `s` is number `s // n_groups` of group
    `s % n_groups`."""

    @property
    def encoding(self) -> Encoding:
        """Encodes windows into slots."""

    def detect_language(self, slot: int) -> Pending:
        """(n_languages,) probabilities, in the order of the tokenizer's languages."""

    def begin(
        self,
        prompts: Seq[list[int]],
        slots: Seq[tuple[int, ...]],
        options: Seq[DecodingOptions],
        noise: Seq[Noise | None],
    ) -> Pending:
        """Run the prompts of new sequences of one group. Gives the columns of `Sampled` and the
        probabilities of no speech, (n,) each, for each slot.

        Args:
            slots: of each sequence: the one with its window, and more if it has several texts.
            noise: for each slot.
        """

    def decode(
        self,
        group: int,
        n: int,
        n_positions: int,
        noise: Seq[Noise | None],
        searches: Seq[tuple[int, ...]],
    ) -> Pending:
        """Sample one more token in each of a group's first `n` slots. Gives the columns of
        `Sampled`, (n,) each.

        Args:
            n_positions: positions in use in the fullest slot, including that token's.
            searches: the slots of each beam search of the group.
        """

    def release(self, slot: int) -> None:
        """A slot's sequence has ended."""

    def check(self) -> None:
        """Check that the executor can continue; callable from any thread.

        Raises:
            GangError: a rank failed, died or hangs.
        """

    def close(self) -> None:
        """Stop whatever was started for it."""


class LocalExecutor:
    """The whole model, in this process."""

    n_groups = 1

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        self.runner = ModelRunner(checkpoint, config)
        self.encoding = make_encoding(self._encode, config)

    def _encode(self, sequences: Seq[Sequence]) -> None:
        pcm = [sequence.request.pcm for sequence in sequences]
        self.runner.encode(pcm, [sequence.slot for sequence in sequences])

    def detect_language(self, slot: int) -> Pending:
        probabilities = self.runner.detect_language(slot)
        assert probabilities is not None
        return Download(probabilities)

    def begin(
        self,
        prompts: Seq[list[int]],
        slots: Seq[tuple[int, ...]],
        options: Seq[DecodingOptions],
        noise: Seq[Noise | None],
    ) -> Pending:
        begun = self.runner.begin(prompts, slots, options, noise)
        assert begun is not None
        sampled, no_speech = begun
        return Download(*sampled.columns, no_speech)

    def decode(
        self,
        group: int,
        n: int,
        n_positions: int,
        noise: Seq[Noise | None],
        searches: Seq[tuple[int, ...]],
    ) -> Pending:
        sampled = self.runner.decode(n, n_positions, noise, searches=searches)
        assert sampled is not None, "a rank alone samples"
        return Download(*sampled.columns)

    def release(self, slot: int) -> None:
        self.runner.release(slot)

    def check(self) -> None:
        return

    def close(self) -> None:
        return
