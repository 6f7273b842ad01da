"""What the token rules remember of each slot, as tensors on the device: no rule reads the host."""

from dataclasses import dataclass, fields

import torch

from engine.request import DecodingOptions

NO_LIMIT = 1 << 30


@dataclass
class RuleState:
    """One entry per slot, shape (n_slots,).

    Attributes:
        n_sampled: tokens of the text so far: those sampled, and a prefix.
        last_was_timestamp, penultimate_was_timestamp: whether these sampled tokens were timestamps.
        min_timestamp: the smallest timestamp id not below the last one sampled.
        with_timestamps: whether the timestamp rules apply.
        max_initial_timestamp: the largest token id allowed as the first one.
        keyword_state: where the text is in the graph of its keywords.
    """

    n_sampled: torch.Tensor
    last_was_timestamp: torch.Tensor
    penultimate_was_timestamp: torch.Tensor
    min_timestamp: torch.Tensor
    with_timestamps: torch.Tensor
    max_initial_timestamp: torch.Tensor
    keyword_state: torch.Tensor

    @classmethod
    def empty(cls, n_slots: int, device: torch.device) -> "RuleState":
        def ints() -> torch.Tensor:
            return torch.zeros(n_slots, dtype=torch.int64, device=device)

        def flags() -> torch.Tensor:
            return torch.zeros(n_slots, dtype=torch.bool, device=device)

        return cls(ints(), flags(), flags(), ints(), flags(), ints(), ints())

    def begin(self, slot: int, options: DecodingOptions, timestamp_begin: int) -> None:
        """Forget the slot's last sequence."""
        limit = options.max_initial_timestamp_index
        self.n_sampled[slot] = len(options.prefix)
        self.last_was_timestamp[slot] = False
        self.penultimate_was_timestamp[slot] = False
        self.min_timestamp[slot] = timestamp_begin
        self.with_timestamps[slot] = options.timestamps
        self.keyword_state[slot] = 0
        self.max_initial_timestamp[slot] = NO_LIMIT if limit is None else timestamp_begin + limit

    def tensors(self) -> list[torch.Tensor]:
        """All tensors, with all slots."""
        return [getattr(self, field.name) for field in fields(self)]

    def select(self, slots: slice | torch.Tensor) -> "RuleState":
        """The entries of some slots; a view for a slice."""
        return RuleState(*(getattr(self, field.name)[slots] for field in fields(self)))

    def copy(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy the entries of slots to others, (n,) each; a slot may be both."""
        for tensor in self.tensors():
            tensor[targets] = tensor[sources]

    def advance(
        self, slots: slice | torch.Tensor, tokens: torch.Tensor, timestamp_begin: int
    ) -> None:
        """Record the token sampled in each of the slots; (n,) int64."""
        is_timestamp = tokens >= timestamp_begin
        self.penultimate_was_timestamp[slots] = self.last_was_timestamp[slots]
        self.last_was_timestamp[slots] = is_timestamp
        self.min_timestamp[slots] = torch.where(is_timestamp, tokens, self.min_timestamp[slots])
        self.n_sampled[slots] += 1
