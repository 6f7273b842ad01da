"""The next token of each slot from logits that are split over ranks.

Full logits are never gathered. Each rank reduces its logits to a few numbers each for text tokens
and for timestamps: the best score and its id, its logit, the greatest logit, and the log-sum-exp.
Ranks exchange these numbers and reach the same choice. Ties go to the lowest id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.decoding.rules import TokenRules
from engine.decoding.state import RuleState
from engine.kernels import native
from engine.parallel.group import Group


@dataclass(frozen=True)
class Sampled:
    """Shape (n,) each: token ids int64, and their log-probabilities float32 under the rules,
    before the temperature, as openai/whisper counts them."""

    tokens: torch.Tensor
    logprobs: torch.Tensor


@dataclass(frozen=True)
class _Best:
    """The summary of some token ids, shape (n,) each, float64: the best score, the id that has it,
    its logit, the greatest logit, and the log-sum-exp of the logits."""

    score: torch.Tensor
    token: torch.Tensor
    logit: torch.Tensor
    max_logit: torch.Tensor
    lse: torch.Tensor

    def columns(self) -> tuple[torch.Tensor, ...]:
        return self.score, self.token, self.logit, self.max_logit, self.lse

    def without(self, rows: torch.Tensor) -> "_Best":
        """The same, but with all these ids forbidden in some rows."""

        def masked(values: torch.Tensor) -> torch.Tensor:
            return values.masked_fill(rows, float("-inf"))

        return _Best(
            masked(self.score), self.token, self.logit, masked(self.max_logit), masked(self.lse)
        )


class Sampler:
    """Chooses tokens, greedily or by temperature.

    Args:
        n_vocab: size of the whole vocabulary, for which sampling noise is drawn.
    """

    def __init__(self, rules: TokenRules, n_vocab: int, group: Group) -> None:
        self.rules = rules
        self.n_vocab = n_vocab
        self.group = group

    def __call__(
        self, logits: torch.Tensor, state: RuleState, noise: Sequence["Noise | None"]
    ) -> Sampled:
        """Apply the rules and choose.

        Args:
            logits: (n, local ids) float32; overwritten.
            state: the n slots' entries.
            noise: per slot the noise to sample with, or None to take the likeliest token.
        """
        no_words, no_special = self.rules.apply(logits, state)
        scores = self._scores(logits, noise)
        first_id = self.rules.vocab.start
        ranges = []
        for range_scores, range_logits in zip(
            self.rules.split(scores), self.rules.split(logits), strict=True
        ):
            ranges.append(_best(range_scores, range_logits, first_id))
            first_id += range_logits.shape[1]
        words, special, timestamps = ranges
        text, timestamp = self._reduce(
            _either(words.without(no_words), special.without(no_special)), timestamps
        )

        # All timestamps together are likelier than the best text token: it must be a timestamp.
        forced = state.with_timestamps & (timestamp.lse > text.max_logit)
        is_timestamp = forced | (timestamp.score > text.score)
        chosen = torch.where(is_timestamp, timestamp.token, text.token)
        logit = torch.where(is_timestamp, timestamp.logit, text.logit)
        whole = torch.logaddexp(timestamp.lse, text.lse)
        logprobs = logit - torch.where(forced, timestamp.lse, whole)
        return Sampled(chosen.long(), logprobs.float())

    def probability(self, logits: torch.Tensor, token: int) -> torch.Tensor:
        """(n, local ids) unmasked logits -> (n,) probabilities of one token."""
        local = torch.stack([_row_logsumexp(logits.double()), self._columns(logits, [token])[:, 0]])
        lse, logit = self.group.all_gather(local).unbind(1)
        return torch.exp(logit.amax(0) - lse.logsumexp(0)).float()

    def choose_among(self, logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        """(n, local ids) unmasked logits -> (n, len(tokens)) probabilities among these ids."""
        columns = self.group.all_gather(self._columns(logits, tokens)).amax(0)
        return torch.softmax(columns, dim=1).float()

    def _columns(self, logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        """(n, local ids) -> (n, len(tokens)) float64: the logits of these ids, -inf for those of
        other ranks."""
        vocab = self.rules.vocab
        ids = torch.tensor(tokens, device=logits.device) - vocab.start
        mine = (ids >= 0) & (ids < len(vocab))
        local = logits[:, torch.where(mine, ids, 0)].double()
        return local.masked_fill(~mine, float("-inf"))

    def _scores(self, logits: torch.Tensor, noise: Sequence["Noise | None"]) -> torch.Tensor:
        if all(item is None for item in noise):
            return logits
        scores = logits.clone()
        vocab = self.rules.vocab
        for row, item in enumerate(noise):
            if item is not None:
                gumbel = item.draw(self.n_vocab, logits.device)[vocab.start : vocab.stop]
                scores[row] = scores[row] / item.temperature + gumbel
        return scores

    def _reduce(self, *local: _Best) -> Sequence[_Best]:
        """The best of each range of ids over all ranks."""
        if self.group.size == 1:
            return local
        packed = torch.stack([torch.stack(best.columns()) for best in local])
        return [_over_ranks(ranks) for ranks in self.group.all_gather(packed).unbind(1)]


@dataclass(frozen=True, slots=True)
class Noise:
    """Gumbel noise that depends only on seed, step and token id (arXiv:1611.01144, eq. 1), so it is
    the same for every sharding and batch. CPU and CUDA draw different numbers."""

    temperature: float
    seed: int
    step: int

    def draw(self, n_vocab: int, device: torch.device) -> torch.Tensor:
        """(n_vocab,) float32."""
        generator = torch.Generator(device).manual_seed(_mix(self.seed, self.step))
        exponential = torch.empty(n_vocab, device=device).exponential_(generator=generator)
        exponential.clamp_(min=torch.finfo(torch.float32).tiny)
        return -exponential.log()


def _mix(seed: int, step: int) -> int:
    """One 63-bit number from two (the finaliser of splitmix64)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + step + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


def _best(scores: torch.Tensor, logits: torch.Tensor, first_id: int) -> _Best:
    if scores.shape[1] == 0:
        nothing = scores.new_full((len(scores),), float("-inf"), dtype=torch.float64)
        return _Best(nothing, torch.zeros_like(nothing), nothing, nothing, nothing)
    score, index, lse = _reduce_rows(scores)
    logit, max_logit = score, score
    if scores.data_ptr() != logits.data_ptr():  # greedy scores are the logits themselves
        logit = logits.gather(1, index[:, None])[:, 0]
        max_logit, _, lse = _reduce_rows(logits)
    return _Best(
        score.double(),
        (index + first_id).double(),
        logit.double(),
        max_logit.double(),
        lse.double(),
    )


def _over_ranks(columns: torch.Tensor) -> _Best:
    """(ranks, 5, n), the columns of each rank's best -> the best of all."""
    score, token, logit, max_logit, lse = columns.unbind(1)
    # argmax takes the first of equals, and lower ranks own lower ids.
    winner = score.argmax(0, keepdim=True)
    return _Best(
        score.gather(0, winner)[0],
        token.gather(0, winner)[0],
        logit.gather(0, winner)[0],
        max_logit.amax(0),
        lse.logsumexp(0),
    )


def _reduce_rows(values: torch.Tensor) -> Sequence[torch.Tensor]:
    """(n, ids) -> (n,) each: the greatest, the first index that has it, and the log-sum-exp."""
    if native.serves(values.device):
        return native.reduce_logits(values)
    return *values.max(dim=1), _row_logsumexp(values)


def _either(low: _Best, high: _Best) -> _Best:
    """Merge the summaries of two ranges of ids; the lower ids win if scores are equal."""
    is_high = high.score > low.score
    return _Best(
        torch.maximum(low.score, high.score),
        torch.where(is_high, high.token, low.token),
        torch.where(is_high, high.logit, low.logit),
        torch.maximum(low.max_logit, high.max_logit),
        torch.logaddexp(low.lse, high.lse),
    )


def _row_logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """(n, ids) -> (n,). A single row is computed with a copy: alone, torch would split its sum over
    threads, and the last bits would differ from those of the same row in a batch."""
    if len(logits) == 1:
        return torch.logsumexp(logits.expand(2, -1), 1)[:1]
    return torch.logsumexp(logits, 1)
