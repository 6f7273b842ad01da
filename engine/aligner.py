"""A rank's part in finding out how finished texts attend to the frames of their windows.

The text goes through the decoder once more, all tokens at once, while its window is still in its
slot. Each rank reads the alignment heads that it has. Their maps are added up over the ranks of a
stage, and from stage to stage.
"""

import torch

from engine.model.decoder import Tap
from engine.parallel.partition import partition
from engine.parallel.place import Place, Wire
from engine.steps import Align
from engine.transfer import upload
from engine.weights.alignment_heads import Heads


class Aligner:
    """Reads attention on one rank.

    Args:
        heads: the alignment heads of the model.
        n_heads: heads of a layer.
    """

    def __init__(self, place: Place, heads: Heads, n_heads: int, device: torch.device) -> None:
        self._place = place
        self._device = device
        self._n = len(heads)
        here = partition(n_heads, place.group.size)[place.group.rank]
        self._heads = {
            layer - place.stage.decoder.start: tuple(
                head - here.start for at, head in heads if at == layer and head in here
            )
            for layer in place.stage.decoder
        }

    def taps(self) -> dict[int, Tap]:
        """For `DecoderStage.prefill`."""
        return {layer: Tap(heads, []) for layer, heads in self._heads.items() if heads}

    def maps(self, step: Align, taps: dict[int, Tap]) -> list[torch.Tensor] | None:
        """What the taps read -> (n_tokens, n_frames) float32 for each text of the step: how much
        each token attends to each of the frames, which for a token are 1 in sum; mean of the heads.

        Returns:
            Where decoding ends; elsewhere None, and the sum so far goes to the next stage.
        """
        sums = [self._sum(step, index, taps) for index in range(len(step.texts))]
        flat = torch.cat([each.flatten() for each in sums])
        flat = self._place.group.all_reduce_sum(flat)
        if not self._place.begins_decoding:
            before = self._wire.expect(tuple(flat.shape), flat.dtype, self._place.index - 1)
            flat = flat + before.get().to(flat.device)
        if not self._place.ends_decoding:
            self._wire.send(flat, self._place.index + 1)
            return None
        parts = torch.split(flat / self._n, [each.numel() for each in sums])
        return [part.view(each.shape) for part, each in zip(parts, sums, strict=True)]

    def _sum(self, step: Align, index: int, taps: dict[int, Tap]) -> torch.Tensor:
        """The sum of one text's maps over this rank's heads."""
        # The token at a position is chosen by what the position before it attends to.
        rows = slice(step.n_before[index] - 1, len(step.texts[index]) - 1)
        shape = (rows.stop - rows.start, len(step.frames[index]))
        total = torch.zeros(shape, device=self._device)
        frames = upload(step.frames[index].tolist(), self._device)
        for tap in taps.values():
            scores = tap.scores[0][index, :, rows][:, :, frames]
            total += torch.softmax(scores, dim=-1).sum(0)
        return total

    @property
    def _wire(self) -> Wire:
        assert self._place.wires is not None, "a rank alone hands on nothing"
        return self._place.wires.hidden
