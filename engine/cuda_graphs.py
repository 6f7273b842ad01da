"""Decoder steps as CUDA graphs: one launch a token instead of hundreds.

A graph is captured for each bucket of batch size and self-attention length, when first needed.
Everything that a step reads and writes lives as long as the runner, so a graph can be replayed.
"""

from collections.abc import Callable, Sequence

import torch

from engine.decoding.sampler import Sampled

# (rows, length) -> the tokens that a step sampled; all on the device, without host work in between.
Step = Callable[[int, int], Sampled]

_ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
_LENGTHS = (32, 64, 96, 128, 192, 256, 320, 384, 448)


def bucket(value: int, sizes: Sequence[int], limit: int) -> int:
    """The smallest bucket that holds `value`; never more than `limit`, which holds every value."""
    return min(next((size for size in sizes if size >= value), limit), limit)


class DecodeGraphs:
    """Replays a step, captured once per bucket.

    Args:
        step: the function to capture.
        state: tensors that a step changes; they are restored after the runs that precede a capture.
        max_rows, max_length: the largest batch and length.
    """

    def __init__(
        self, step: Step, state: Sequence[torch.Tensor], max_rows: int, max_length: int
    ) -> None:
        self._step = step
        self._state = state
        self._max_rows = max_rows
        self._max_length = max_length
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Sampled]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, n_rows: int, n_positions: int) -> Sampled:
        """Sample a token in each of the first rows.

        Returns:
            Tensors that the next call overwrites, `n_rows` long.
        """
        rows = bucket(n_rows, _ROWS, self._max_rows)
        length = bucket(n_positions, _LENGTHS, self._max_length)
        if (rows, length) not in self._graphs:
            self._graphs[rows, length] = self._capture(rows, length)
        graph, sampled = self._graphs[rows, length]
        graph.replay()
        return Sampled(sampled.tokens[:n_rows], sampled.logprobs[:n_rows])

    def _capture(self, rows: int, length: int) -> tuple[torch.cuda.CUDAGraph, Sampled]:
        before = [tensor.clone() for tensor in self._state]
        # Libraries allocate workspaces in their first run, which a capture does not allow.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(rows, length)
        torch.cuda.current_stream().wait_stream(stream)
        # Keys and values need no undoing: the next step writes the same in the same places.
        for tensor, saved in zip(self._state, before, strict=True):
            tensor.copy_(saved)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            sampled = self._step(rows, length)
        return graph, sampled
