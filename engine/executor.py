"""Runs an engine's operations: with the model in this process, or on a gang of ranks elsewhere."""

from collections.abc import Sequence as Seq
from typing import Protocol

from engine.config import EngineConfig
from engine.encode_ahead import Encoding, make_encoding
from engine.runner import ModelRunner
from engine.sequence import Sequence, by_window
from engine.steps import Align, Begin, Decode
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

    def detect_language(self, slot: int, adapter: int = 0) -> Pending:
        """(n_languages,) probabilities, in the order of the tokenizer's languages.

        Args:
            adapter: the number of the window's adapter, 0 for none.
        """

    def begin(self, step: Begin) -> Pending:
        """Give the columns of `Sampled` and the probabilities of no speech, (n,) each, for the
        slots of `step`."""

    def decode(self, step: Decode) -> Pending:
        """Give the columns of `Sampled`, (n,) each."""

    def align(self, step: Align) -> Pending:
        """Give `Aligner.maps`."""

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
        for n_frames, adapter, equal in by_window(sequences):
            pcm = [sequence.request.pcm for sequence in equal]
            self.runner.encode(pcm, [sequence.slot for sequence in equal], n_frames, adapter)

    def detect_language(self, slot: int, adapter: int = 0) -> Pending:
        probabilities = self.runner.detect_language(slot, adapter)
        assert probabilities is not None
        return Download(probabilities)

    def begin(self, step: Begin) -> Pending:
        begun = self.runner.begin(step)
        assert begun is not None, "a rank alone samples"
        sampled, no_speech = begun
        return Download(*sampled.columns, no_speech)

    def decode(self, step: Decode) -> Pending:
        sampled = self.runner.decode(step)
        assert sampled is not None, "a rank alone samples"
        return Download(*sampled.columns)

    def align(self, step: Align) -> Pending:
        maps = self.runner.align(step)
        assert maps is not None, "a rank alone has all heads"
        return Download(*maps)

    def release(self, slot: int) -> None:
        self.runner.release(slot)

    def check(self) -> None:
        return

    def close(self) -> None:
        return
