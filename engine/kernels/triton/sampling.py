"""The greedy choice of a token under the timestamp rules, in two launches for all rows.

The rules are those of `engine.decoding.rules`, the choice is `engine.decoding.sampler`'s. The
first launch takes the logits block by block, forbids what the rules forbid, and leaves of each
block its greatest logit, the first id that has it, and the sum of exponentials; blocks do not cross
from words to special tokens or timestamps. The second adds up the blocks of a row and chooses.

Shapes: n rows, V ids, of which words come before `eot` and timestamps from `split` on; B blocks.
"""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import Argument, Launch, power_of_two
from engine.kernels.triton.weights import ALWAYS, AT_FIRST

_BLOCK = 4096
_ALWAYS, _AT_FIRST = tl.constexpr(ALWAYS), tl.constexpr(AT_FIRST)
_SMALLEST = tl.constexpr(1e-30)


@triton.jit
def _rules(n_sampled, last, penultimate, least, with_timestamps, row):
    """What the rules say of a row: whether it is the first token, only text may come, only the
    second timestamp of a pair may, timestamps apply, and the lowest timestamp that may come."""
    sampled = tl.load(n_sampled + row)
    is_first = sampled == 0
    on = tl.load(with_timestamps + row) != 0
    after = on & (tl.load(last + row) != 0)
    is_whole = (tl.load(penultimate + row) != 0) | (sampled < 2)
    needs_text = after & is_whole
    needs_pair = after & (is_whole == 0)
    moves_on = (is_first == 0) & (needs_pair == 0)
    lowest = tl.load(least + row) + tl.where(moves_on, 1, 0)
    return is_first, needs_text, needs_pair, on, lowest


@triton.jit
def reduce_kernel(
    logits, suppressed, n_sampled, last, penultimate, least, with_timestamps, limit, parts,
    vocab, eot, split, n_words, n_special, n_blocks, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program takes a block of a row.

    Args:
        suppressed: (V,) uint8.
        limit: (n,) the greatest id allowed as the first token.
        parts: (n, B, 3) float32.
        n_words, n_special: blocks of words and of special tokens.
    """
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    is_first, needs_text, _, on, lowest = _rules(
        n_sampled, last, penultimate, least, with_timestamps, row
    )
    is_timestamp = block >= n_words + n_special
    is_special = (block >= n_words) & (is_timestamp == 0)
    start = tl.where(is_timestamp, split, tl.where(is_special, eot, 0))
    end = tl.where(is_timestamp, vocab, tl.where(is_special, split, eot))
    skipped = tl.where(is_timestamp, n_words + n_special, tl.where(is_special, n_words, 0))
    at = start + (block - skipped) * BLOCK + tl.arange(0, BLOCK)
    inside = at < end
    values = tl.load(logits + row * vocab + at, mask=inside, other=float("-inf")).to(tl.float32)
    bits = tl.load(suppressed + at, mask=inside, other=0)
    forbidden = (bits & _ALWAYS) != 0
    forbidden |= ((bits & _AT_FIRST) != 0) & is_first
    late = is_first & (at > tl.load(limit + row))
    forbidden |= is_timestamp & on & ((at < lowest) | late | needs_text)
    values = tl.where(forbidden, float("-inf"), values)
    top, place = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
    # Of a block without an allowed id nothing is left.
    weights = tl.exp(values - tl.where(top == float("-inf"), 0.0, top))
    part = parts + (row * n_blocks + block) * 3
    tl.store(part, top)
    tl.store(part + 1, (tl.min(at, 0) + place).to(tl.float32))
    tl.store(part + 2, tl.sum(weights, 0))


@triton.jit
def _best(tops, ids, sums, is_mine):
    """The greatest logit of some blocks, the lowest id that has it, and the sum of exponentials
    relative to it."""
    mine = tl.where(is_mine, tops, float("-inf"))
    top = tl.max(mine, 0)
    token = tl.min(tl.where(is_mine & (mine == top), ids, 1e9), 0)
    shrink = tl.exp(mine - tl.where(top == float("-inf"), 0.0, top))
    return top, token, tl.sum(shrink * sums, 0)


@triton.jit
def _log_sum(top, total):
    return tl.where(total > 0, top + tl.log(tl.maximum(total, _SMALLEST)), float("-inf"))


@triton.jit
def choose_kernel(
    parts, n_sampled, last, penultimate, least, with_timestamps, tokens, logprobs,
    n_words, n_special, n_blocks, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A program chooses the token of a row."""
    row = tl.program_id(0).to(tl.int64)
    is_first, _, needs_pair, on, _ = _rules(
        n_sampled, last, penultimate, least, with_timestamps, row
    )
    at = tl.arange(0, BLOCKS)
    inside = at < n_blocks
    part = parts + (row * n_blocks + at) * 3
    tops = tl.load(part, mask=inside, other=float("-inf"))
    ids = tl.load(part + 1, mask=inside, other=0.0)
    sums = tl.load(part + 2, mask=inside, other=0.0)
    # At the beginning neither words nor special tokens, in a pair no words.
    begins = on & is_first
    has_words = (at < n_words) & (begins == 0) & (needs_pair == 0)
    has_special = (at >= n_words) & (at < n_words + n_special) & (begins == 0)
    text, text_id, text_sum = _best(tops, ids, sums, inside & (has_words | has_special))
    is_timestamp = inside & (at >= n_words + n_special)
    timestamp, timestamp_id, timestamp_sum = _best(tops, ids, sums, is_timestamp)
    of_text, of_timestamps = _log_sum(text, text_sum), _log_sum(timestamp, timestamp_sum)
    # All timestamps together may be likelier than the likeliest text.
    forced = on & (of_timestamps > text)
    chooses_timestamp = forced | (timestamp > text)
    greater = tl.maximum(of_text, of_timestamps)
    smaller = tl.minimum(of_text, of_timestamps)
    below = smaller - tl.where(greater == float("-inf"), 0.0, greater)
    whole = greater + tl.log(1.0 + tl.exp(below))
    logit = tl.where(chooses_timestamp, timestamp, text)
    chosen = tl.where(chooses_timestamp, timestamp_id, text_id)
    tl.store(tokens + row, chosen.to(tl.int64))
    tl.store(logprobs + row, logit - tl.where(forced, of_timestamps, whole))


def sampling_launches(
    logits: torch.Tensor,
    suppressed: torch.Tensor,
    state: Mapping[str, torch.Tensor],
    eot: int,
    split: int,
    tokens: torch.Tensor,
    logprobs: torch.Tensor,
) -> tuple[Launch, Launch]:
    """The two launches, in order.

    Args:
        logits: (n, V), contiguous; they stay as they are.
        suppressed: (V,) uint8 of `ALWAYS` and `AT_FIRST`.
        state: by the names of `RuleState`, (n,) each, contiguous.
        tokens, logprobs: (n,) int64 and float32.
    """
    n, vocab = logits.shape
    n_words, n_special = triton.cdiv(eot, _BLOCK), triton.cdiv(split - eot, _BLOCK)
    n_blocks = n_words + n_special + triton.cdiv(vocab - split, _BLOCK)
    parts = torch.empty(n, n_blocks, 3, dtype=torch.float32, device=logits.device)
    rules: dict[str, Argument] = {
        "n_sampled": state["n_sampled"],
        "last": state["last_was_timestamp"],
        "penultimate": state["penultimate_was_timestamp"],
        "least": state["min_timestamp"],
        "with_timestamps": state["with_timestamps"],
    }
    blocks: dict[str, Argument] = {
        "n_words": n_words,
        "n_special": n_special,
        "n_blocks": n_blocks,
    }
    first: dict[str, Argument] = {
        "logits": logits,
        "suppressed": suppressed,
        **rules,
        "limit": state["max_initial_timestamp"],
        "parts": parts,
        "vocab": vocab,
        "eot": eot,
        "split": split,
        **blocks,
    }
    second: dict[str, Argument] = {
        "parts": parts,
        **rules,
        "tokens": tokens,
        "logprobs": logprobs,
        **blocks,
    }
    return (
        Launch(reduce_kernel, (n_blocks, n), first, {"BLOCK": _BLOCK}, num_warps=8),
        Launch(choose_kernel, (n,), second, {"BLOCKS": power_of_two(n_blocks)}, num_warps=1),
    )
