"""Which tokens may come next: suppressed tokens and Whisper's timestamp rules.

The rules are those of openai/whisper's `ApplyTimestampRules`, `SuppressBlank` and
`SuppressTokens` (whisper/decoding.py), vectorised over slots and applied to one rank's range of
token ids. The rule that weighs all timestamps against the best text token needs the whole
vocabulary; it is in `sampler`.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

from engine.decoding.state import RuleState
from engine.kernels.triton.weights import ALWAYS, AT_FIRST


class TokenRules:
    """Masks logits of the token ids in `vocab`.

    Args:
        vocab: the token ids of this rank's logits.
        suppress: ids never sampled.
        begin_suppress: ids not sampled as the first token.
        eot, timestamp_begin: ids of the end token and of `<|0.00|>`.
    """

    def __init__(
        self,
        vocab: range,
        suppress: Sequence[int],
        begin_suppress: Sequence[int],
        eot: int,
        timestamp_begin: int,
        device: torch.device,
    ) -> None:
        self.vocab = vocab
        self.timestamp_begin = timestamp_begin
        self.eot = eot
        self.device = device
        self._suppress = self._local(suppress, device)
        self._begin_suppress = self._local(begin_suppress, device)
        self._eot = self._offset(eot)
        self._split = self._offset(timestamp_begin)
        self._timestamps = torch.arange(
            vocab.start + self._split, vocab.stop, dtype=torch.int64, device=device
        )

    @cached_property
    def suppressed(self) -> torch.Tensor:
        """(local ids,) uint8: how the kernels for GPUs are told what is suppressed."""
        bits = torch.zeros(len(self.vocab), dtype=torch.uint8, device=self.device)
        bits[self._begin_suppress] = AT_FIRST
        bits[self._suppress] = ALWAYS
        return bits

    def split(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(n, local ids) -> views of the words, of the special tokens from the end token on, and of
        the timestamps."""
        words, special = logits[:, : self._eot], logits[:, self._eot : self._split]
        return words, special, logits[:, self._split :]

    def apply(self, logits: torch.Tensor, state: RuleState) -> tuple[torch.Tensor, torch.Tensor]:
        """Set forbidden tokens to -inf, in place, except for kinds that are forbidden as a whole.

        Args:
            logits: (n, local ids) float32.
            state: the n slots' entries.

        Returns:
            (n,) bool each: rows in which all words, and all special tokens, are forbidden. Filling
            those ranges would be a pass over all logits for the sake of a few rows.
        """
        logits.index_fill_(1, self._suppress, float("-inf"))
        is_first = state.n_sampled == 0
        if self._begin_suppress.numel():
            begin = logits[:, self._begin_suppress]
            logits[:, self._begin_suppress] = begin.masked_fill(is_first[:, None], float("-inf"))

        on = state.with_timestamps
        # A sequence's only token counts as if a timestamp stood before it.
        pair_is_whole = state.penultimate_was_timestamp | (state.n_sampled < 2)
        needs_text = on & state.last_was_timestamp & pair_is_whole
        needs_pair = on & state.last_was_timestamp & ~pair_is_whole
        # Only a pair's second timestamp may repeat a time; else time moves on, once there is one.
        lowest = state.min_timestamp + ((state.n_sampled > 0) & ~needs_pair).long()

        forbidden = self._timestamps < lowest[:, None]
        forbidden |= is_first[:, None] & (self._timestamps > state.max_initial_timestamp[:, None])
        timestamps = self.split(logits)[2]
        timestamps.masked_fill_(on[:, None] & (forbidden | needs_text[:, None]), float("-inf"))
        begins = on & is_first
        return begins | needs_pair, begins

    def _local(self, ids: Sequence[int], device: torch.device) -> torch.Tensor:
        mine = [token - self.vocab.start for token in ids if token in self.vocab]
        return torch.tensor(mine, dtype=torch.int64, device=device)

    def _offset(self, token: int) -> int:
        return min(max(token - self.vocab.start, 0), len(self.vocab))
