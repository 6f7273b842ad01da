"""Which tokens may come next: suppressed tokens and Whisper's timestamp rules.

The rules are those of openai/whisper's `ApplyTimestampRules`, `SuppressBlank` and
`SuppressTokens` (whisper/decoding.py), vectorised over slots and applied to one rank's range of
token ids. The rule that weighs all timestamps against the best text token needs the whole
vocabulary; it is in `sampler`.
"""

from collections.abc import Sequence

import torch

from engine.decoding.state import RuleState


class TokenRules:
    """Masks logits of the token ids in `vocab`.

    Args:
        vocab: the ids that this rank's logits stand for.
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
        self._suppress = self._local(suppress, device)
        self._begin_suppress = self._local(begin_suppress, device)
        self._eot = self._offset(eot)
        self._split = self._offset(timestamp_begin)
        self._timestamps = torch.arange(
            vocab.start + self._split, vocab.stop, dtype=torch.int64, device=device
        )

    def split(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, local ids) -> the text part and the timestamp part, as views."""
        return logits[:, : self._split], logits[:, self._split :]

    def apply(self, logits: torch.Tensor, state: RuleState) -> torch.Tensor:
        """Set forbidden tokens to -inf, in place.

        Args:
            logits: (n, local ids) float32.
            state: the n slots' entries.
        """
        logits.index_fill_(1, self._suppress, float("-inf"))
        is_first = state.n_sampled == 0
        if self._begin_suppress.numel():
            begin = logits[:, self._begin_suppress]
            logits[:, self._begin_suppress] = begin.masked_fill(is_first[:, None], float("-inf"))
        self._apply_timestamp_rules(logits, state, is_first)
        return logits

    def _apply_timestamp_rules(
        self, logits: torch.Tensor, state: RuleState, is_first: torch.Tensor
    ) -> None:
        text, timestamps = self.split(logits)
        on = state.with_timestamps
        # A sequence's only token counts as if a timestamp stood before it.
        pair_is_whole = state.penultimate_was_timestamp | (state.n_sampled < 2)
        needs_text = on & state.last_was_timestamp & pair_is_whole
        needs_pair = on & state.last_was_timestamp & ~pair_is_whole
        # Only the second of a pair may repeat a time; else time moves on, once there is one.
        has_timestamp = state.n_sampled > 0
        lowest = state.min_timestamp + (has_timestamp & ~needs_pair).long()

        text.masked_fill_((on & is_first)[:, None], float("-inf"))
        text[:, : self._eot].masked_fill_(needs_pair[:, None], float("-inf"))
        forbidden = self._timestamps < lowest[:, None]
        forbidden |= is_first[:, None] & (self._timestamps > state.max_initial_timestamp[:, None])
        timestamps.masked_fill_(on[:, None] & (forbidden | needs_text[:, None]), float("-inf"))

    def _local(self, ids: Sequence[int], device: torch.device) -> torch.Tensor:
        mine = [token - self.vocab.start for token in ids if token in self.vocab]
        return torch.tensor(mine, dtype=torch.int64, device=device)

    def _offset(self, token: int) -> int:
        return min(max(token - self.vocab.start, 0), len(self.vocab))
