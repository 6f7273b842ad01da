"""A rank's part in finding out how finished texts attend to the frames of their windows.

The text goes through the decoder once more, all tokens at once, while its window is still in its
slot. Each rank reads the alignment heads that it has. Their maps are added up over the ranks of a
stage, and from stage to stage.
"""

from collections.abc import Mapping

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

    def begin(self, step: Align) -> "Reading":
        """Begin to read the attention of a step's texts."""
        return Reading(step, self._heads, self._device)

    def maps(self, reading: "Reading") -> list[torch.Tensor] | None:
        """What was read -> (n_tokens, n_frames) float32 for each text of the step: how much each
        token attends to each of the frames, which for a token are 1 in sum; mean of the heads.

        Returns:
            Where decoding ends; elsewhere None, and the sum so far goes to the next stage.
        """
        flat = torch.cat([each.flatten() for each in reading.sums])
        flat = self._place.group.all_reduce_sum(flat)
        if not self._place.begins_decoding:
            before = self._wire.expect(tuple(flat.shape), flat.dtype, self._place.index - 1)
            flat = flat + before.get().to(flat.device)
        if not self._place.ends_decoding:
            self._wire.send(flat, self._place.index + 1)
            return None
        parts = torch.split(flat / self._n, [each.numel() for each in reading.sums])
        return [part.view(each.shape) for part, each in zip(parts, reading.sums, strict=True)]

    @property
    def _wire(self) -> Wire:
        assert self._place.wires is not None, "a rank alone hands on nothing"
        return self._place.wires.hidden


class Reading:
    """Adds up the attention of texts, layer by layer, so that no more than a layer's is in memory.

    Attributes:
        sums: over this rank's heads, (n_tokens, n_frames) float32 for each text.
    """

    def __init__(
        self, step: Align, heads: Mapping[int, tuple[int, ...]], device: torch.device
    ) -> None:
        # The token at a position is chosen by what the position before it attends to.
        ends = zip(step.n_before, step.texts, strict=True)
        self._rows = [slice(n_before - 1, len(text)) for n_before, text in ends]
        self._frames = [upload(frames.tolist(), device) for frames in step.frames]
        self.sums = [
            torch.zeros(rows.stop - rows.start, len(frames), device=device)
            for rows, frames in zip(self._rows, self._frames, strict=True)
        ]
        self.taps = {layer: Tap(some, self._add) for layer, some in heads.items() if some}

    def _add(self, scores: torch.Tensor) -> None:
        texts = zip(self.sums, self._rows, self._frames, scores, strict=True)
        for total, rows, frames, by_head in texts:
            total += torch.softmax(by_head[:, rows, frames], dim=-1).sum(0)
