"""One step of beam search, on the device: which texts the rows of each chunk stand for next.

As in openai/whisper's `BeamSearchDecoder.update` (whisper/decoding.py), each row proposes its B + 1
likeliest tokens, and the B best proposals that do not end the text go on.

Shapes: n chunks, B rows of each, K proposals of a row.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Proposals:
    """Tokens that rows propose, the likeliest first.

    Attributes:
        tokens: (n, B, K) int64.
        logprobs: (n, B, K) float32.
        gains: (n, B, K) float64, what their keywords add to the scores.
    """

    tokens: torch.Tensor
    logprobs: torch.Tensor
    gains: torch.Tensor


@dataclass(frozen=True)
class BeamStep:
    """What becomes of the rows, shape (n, B) each, the likeliest first if not moved.

    Attributes:
        parents: the number of the row that each row continues.
        tokens, logprobs: the token that it continues with.
        scores: sums of the log-probabilities and gains so far, float64.
        end_logprobs: of the end token behind what each row stood for; -inf if the last row to go on
            is likelier than that.
    """

    parents: torch.Tensor
    tokens: torch.Tensor
    logprobs: torch.Tensor
    scores: torch.Tensor
    end_logprobs: torch.Tensor


def beam_step(scores: torch.Tensor, proposals: Proposals, eot: int, is_first: bool) -> BeamStep:
    """Choose the B best proposals of each chunk that do not end its text.

    Args:
        scores: (n, B) float64, of what the rows stand for.
        is_first: all rows of a chunk stand for the same text, so that the first speaks for all.
    """
    _, n_beams, n_proposals = proposals.tokens.shape
    totals = scores[..., None] + proposals.logprobs.double() + proposals.gains
    if is_first:
        totals[:, 1:] = float("-inf")
    is_end = proposals.tokens == eot
    going = totals.masked_fill(is_end, float("-inf")).flatten(1)
    # Stable: of equals the first row's goes on, as in Python's sort.
    best, order = (found[:, :n_beams] for found in going.sort(dim=1, descending=True, stable=True))
    is_better = is_end & (totals >= best[:, -1, None, None])
    ends = proposals.logprobs.masked_fill(~is_better, float("-inf")).amax(-1)
    return BeamStep(
        parents=order // n_proposals,
        tokens=proposals.tokens.flatten(1).gather(1, order),
        logprobs=proposals.logprobs.flatten(1).gather(1, order),
        scores=best,
        end_logprobs=ends,
    )


def least_moved(step: BeamStep) -> BeamStep:
    """The same texts in other rows: the likeliest that continues a row stays in it, so that fewer
    keys and values have to be copied. Rows that nothing continues take the others, in order."""
    n_beams = step.parents.shape[1]
    same = step.parents[:, :, None] == step.parents[:, None, :]
    stays = ~same.tril(-1).any(-1)
    is_taken = torch.zeros_like(stays).scatter(1, step.parents, True)
    free = is_taken.to(torch.int8).argsort(dim=1, stable=True)
    nth = (~stays).cumsum(1).sub(1).clamp(min=0)
    targets = torch.where(stays, step.parents, free.gather(1, nth))
    order = torch.empty_like(targets).scatter_(
        1, targets, torch.arange(n_beams, device=targets.device).expand_as(targets)
    )
    return BeamStep(
        parents=step.parents.gather(1, order),
        tokens=step.tokens.gather(1, order),
        logprobs=step.logprobs.gather(1, order),
        scores=step.scores.gather(1, order),
        end_logprobs=step.end_logprobs,
    )
