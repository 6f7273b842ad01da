"""When a greedy text is so unsure that a beam search pays.

Most of what a beam search mends is in the few chunks of whose words the model is least sure. With
these alone decoded again, most of its gain costs a part of its time (docs/decisions.md).
"""

from dataclasses import dataclass

from deployments.messages import ChunkResult
from deployments.transcript.cascade import fresh_prob


@dataclass(frozen=True, slots=True)
class UnsureOptions:
    """When a chunk is decoded again with more beams.

    Args:
        beam_size: of the search; no more than the request's own: there is none.
        min_token_prob: text whose new tokens (`cascade.fresh_prob`) are less probable than this on
            average is unsure.
    """

    beam_size: int = 1
    min_token_prob: float = 0.85

    def applies(self, result: ChunkResult) -> bool:
        """Whether a text is unsure."""
        return fresh_prob(result) < self.min_token_prob
