"""The next token of each slot from logits that are split over ranks.

Full logits are never gathered. Each rank reduces its logits to a few numbers each for text tokens
and for timestamps: the best score and its id, its logit, the greatest logit, and the log-sum-exp.
Ranks exchange these numbers and reach the same choice. Ties go to the lowest id.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch.nn import functional as F

from engine.decoding.keyword_bias import Bias
from engine.decoding.rules import TokenRules
from engine.decoding.state import RuleState
from engine.kernels import native, native_builds
from engine.kernels.triton import gpu_kernels
from engine.parallel.group import Group
from engine.transfer import upload


@dataclass(frozen=True)
class Sampled:
    """Tokens of n rows, shape (n,) each.

    Attributes:
        tokens: ids, int64.
        logprobs: float32, under the rules and before the temperature, as openai/whisper counts
            them.
        parents, end_logprobs: of rows of beam searches as `BeamStep` has them; None where there are
            none.
    """

    tokens: torch.Tensor
    logprobs: torch.Tensor
    parents: torch.Tensor | None = None
    end_logprobs: torch.Tensor | None = None

    @property
    def columns(self) -> list[torch.Tensor]:
        """What the host needs."""
        if self.parents is None or self.end_logprobs is None:
            return [self.tokens, self.logprobs]
        return [self.tokens, self.logprobs, self.parents, self.end_logprobs]


@dataclass(frozen=True)
class RuledLogits:
    """Logits under the rules.

    Attributes:
        logits: (n, local ids) float32; forbidden ids have -inf, but for the next two.
        no_words, no_special: (n,) bool, see `TokenRules.apply`.
        with_timestamps: (n,) bool.
    """

    logits: torch.Tensor
    no_words: torch.Tensor
    no_special: torch.Tensor
    with_timestamps: torch.Tensor

    def rows(self, rows: torch.Tensor) -> "RuledLogits":
        """Some of the rows, copied."""
        return RuledLogits(
            self.logits[rows],
            self.no_words[rows],
            self.no_special[rows],
            self.with_timestamps[rows],
        )


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
        self._kernels = None if group.size > 1 else gpu_kernels(rules.device)

    @property
    def has_fused_choice(self) -> bool:
        """Whether `likeliest_of` takes fewer launches than the other ways."""
        return self._kernels is not None

    def likeliest_of(self, logits: torch.Tensor, state: RuleState) -> Sampled:
        """The likeliest token of each row under the rules, on the kernels for GPUs.

        Args:
            logits: (n, ids) float32.
            state: the n slots' entries.
        """
        assert self._kernels is not None, "only where `has_fused_choice` says so"
        rules = self.rules
        entries = {field.name: getattr(state, field.name) for field in fields(state)}
        ask = (rules.suppressed, entries, rules.eot, rules.timestamp_begin)
        return Sampled(*self._kernels.choose(logits, *ask))

    def rule(self, logits: torch.Tensor, state: RuleState) -> RuledLogits:
        """Apply the rules.

        Args:
            logits: (n, local ids) float32; overwritten.
            state: the n slots' entries.
        """
        return RuledLogits(logits, *self.rules.apply(logits, state), state.with_timestamps)

    def __call__(
        self,
        ruled: RuledLogits,
        noise: Sequence["Noise | None"],
        biases: Sequence[Bias] = (),
    ) -> Sampled:
        """Choose a token for each row.

        Args:
            noise: per row the noise to sample with, or None to take the likeliest token.
            biases: of rows with keywords.
        """
        text, timestamp = self._ranges(ruled, self._scores(ruled.logits, noise), noise, biases)
        forced = _must_be_timestamp(ruled, text, timestamp)
        is_timestamp = forced | (timestamp.score > text.score)
        chosen = torch.where(is_timestamp, timestamp.token, text.token)
        logit = torch.where(is_timestamp, timestamp.logit, text.logit)
        logprobs = logit - _log_sum(forced, text, timestamp)
        return Sampled(chosen.long(), logprobs.float())

    def likeliest(
        self, ruled: RuledLogits, k: int, biases: Sequence[Bias] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The `k` best tokens of each row, the best first: ids (n, k) int64, their
        log-probabilities, float32, and what keywords add to these, float64.

        Args:
            ruled: overwritten.
            biases: of rows with keywords.
        """
        text, timestamp = self._ranges(ruled, ruled.logits)
        forced = _must_be_timestamp(ruled, text, timestamp)
        words, special, _ = self.rules.split(ruled.logits)
        words.masked_fill_((ruled.no_words | forced)[:, None], float("-inf"))
        special.masked_fill_((ruled.no_special | forced)[:, None], float("-inf"))
        scores = self._with_gains(ruled.logits, biases)
        n_local = min(k, ruled.logits.shape[1])
        best, ids = _top_of_rows(scores, n_local)
        logits = best if scores is ruled.logits else ruled.logits.gather(1, ids)
        ids = ids + self.rules.vocab.start
        found = torch.stack([column.double() for column in (best, ids, logits)])
        if self.group.size > 1:
            ranks = self._all_proposals(found, k)
            # Lower ranks own lower ids, and the first of equals wins.
            best, order = ranks[0].sort(dim=1, descending=True, stable=True)
            found = ranks.gather(2, order[:, :k].expand(len(ranks), -1, -1))
        best, proposed, logits = found
        logprobs = logits - _log_sum(forced, text, timestamp)[:, None]
        gains = (best - logits).nan_to_num(0.0)  # where both are -inf
        return proposed.clamp(min=0).long(), logprobs.float(), gains

    def _all_proposals(self, found: torch.Tensor, k: int) -> torch.Tensor:
        """(3, n, at most k), this rank's -> (3, n, ranks * k), in the order of ranks."""
        missing = k - found.shape[2]
        padded = F.pad(found, (0, missing), value=float("-inf")) if missing else found
        return self.group.all_gather(padded).permute(1, 2, 0, 3).flatten(2)

    def _ranges(
        self,
        ruled: RuledLogits,
        scores: torch.Tensor,
        noise: Sequence["Noise | None"] = (),
        biases: Sequence[Bias] = (),
    ) -> tuple["_Best", "_Best"]:
        """The best of text (words and special tokens), and of timestamps, over all ranks."""
        first_id = self.rules.vocab.start
        is_greedy = scores is ruled.logits
        ranges = []
        for range_scores, range_logits in zip(
            self.rules.split(scores), self.rules.split(ruled.logits), strict=True
        ):
            ranges.append(_best(range_scores, range_logits, first_id, is_greedy))
            first_id += range_logits.shape[1]
        words, special, timestamps = ranges
        for bias in biases:
            words = self._or_keywords(words, ruled.logits, scores, noise, bias)
        text, timestamp = self._reduce(
            _either(words.without(ruled.no_words), special.without(ruled.no_special)), timestamps
        )
        return text, timestamp

    def _or_keywords(
        self,
        words: _Best,
        logits: torch.Tensor,
        scores: torch.Tensor,
        noise: Sequence["Noise | None"],
        bias: Bias,
    ) -> _Best:
        """The best words of rows with keywords, with what these add."""
        rows = bias.index
        tokens, bonuses = bias.tables.candidates(bias.states)
        drawn = [noise[row] for row in bias.rows]
        if any(item is not None for item in drawn):
            heat = [1.0 if item is None else item.temperature for item in drawn]
            bonuses = bonuses / upload(heat, logits.device, torch.float32)[:, None]
        vocab = self.rules.vocab
        mine = (tokens >= vocab.start) & (tokens < vocab.stop)
        at = (rows[:, None], torch.where(mine, tokens - vocab.start, 0))
        found = (scores[at] + bonuses).double().masked_fill(~mine, float("-inf"))
        best = found.amax(1)
        # Of equals the lowest id, as everywhere.
        token = torch.where(found == best[:, None], tokens, self.n_vocab).amin(1)
        wins = (best > words.score[rows]) | (
            (best == words.score[rows]) & (token < words.token[rows])
        )
        wins &= best > float("-inf")
        logit = logits[rows, torch.where(wins, token - vocab.start, 0)].double()

        def with_keywords(now: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            return now.index_copy(0, rows, torch.where(wins, new, now[rows]))

        return replace(
            words,
            score=with_keywords(words.score, best),
            token=with_keywords(words.token, token.double()),
            logit=with_keywords(words.logit, logit),
        )

    def _with_gains(self, logits: torch.Tensor, biases: Sequence[Bias]) -> torch.Tensor:
        """(n, local ids) -> the same with what keywords add; the same tensor if there are none."""
        if not biases:
            return logits
        scores = logits.clone()
        vocab = self.rules.vocab
        for bias in biases:
            gains = bias.tables.gains(bias.states)
            at_end = bias.tables.gain_at_end(bias.states)[:, None]
            n_others = self.n_vocab - gains.shape[1]
            everything = torch.cat([gains, at_end.expand(-1, n_others)], 1)
            scores[bias.index] += everything[:, vocab.start : vocab.stop]
        return scores

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
        ids = upload(list(tokens), logits.device) - vocab.start
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
    text: int = 0
    """Which of several texts that are sampled for a chunk."""

    def draw(self, n_vocab: int, device: torch.device) -> torch.Tensor:
        """(n_vocab,) float32."""
        generator = torch.Generator(device).manual_seed(self._seed())
        exponential = torch.empty(n_vocab, device=device).exponential_(generator=generator)
        exponential.clamp_(min=torch.finfo(torch.float32).tiny)
        return -exponential.log()

    def _seed(self) -> int:
        seed = self.seed if self.text == 0 else _mix(self.seed, -self.text)
        return _mix(seed, self.step)


def _mix(seed: int, step: int) -> int:
    """One 63-bit number from two (the finaliser of splitmix64)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + step + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


def _must_be_timestamp(ruled: RuledLogits, text: _Best, timestamp: _Best) -> torch.Tensor:
    """(n,) bool: where all timestamps together are likelier than the best text token."""
    return ruled.with_timestamps & (timestamp.lse > text.max_logit)


def _log_sum(forced: torch.Tensor, text: _Best, timestamp: _Best) -> torch.Tensor:
    """(n,) float64: the log-sum-exp of all logits that are allowed."""
    whole = torch.logaddexp(timestamp.lse, text.lse)
    return torch.where(forced, timestamp.lse, whole)


def _best(scores: torch.Tensor, logits: torch.Tensor, first_id: int, is_greedy: bool) -> _Best:
    """
    Args:
        is_greedy: the scores are the logits.
    """
    if scores.shape[1] == 0:
        nothing = scores.new_full((len(scores),), float("-inf"), dtype=torch.float64)
        return _Best(nothing, torch.zeros_like(nothing), nothing, nothing, nothing)
    score, index, lse = _reduce_rows(scores)
    logit, max_logit = score, score
    if not is_greedy:
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
    if native_builds.serves(values.device):
        return native.reduce_logits(values)
    return *values.max(dim=1), _row_logsumexp(values)


def _top_of_rows(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, ids) -> the k greatest of each row, the greatest first, and their indices, (n, k)."""
    if native_builds.serves(values.device):
        return native.top_logits(values, k)
    best, index = values.topk(k, dim=1)
    return best, index


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
