"""Which layers each pipeline stage holds: a cut of [encoder layers, decoder layers]."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import ModelDimensions
from engine.errors import ShardingError


@dataclass(frozen=True, slots=True)
class Stage:
    """The layers of a pipeline stage: a contiguous part of [encoder layers, decoder layers].

    Either range may be empty, but not both. The convolutions belong to the first encoder layer, the
    final norms to the last layers, the embedding to the first and the last decoder layer.
    """

    encoder: range
    decoder: range

    @classmethod
    def whole(cls, dims: ModelDimensions) -> "Stage":
        return cls(range(dims.n_audio_layer), range(dims.n_text_layer))

    @property
    def n_layers(self) -> int:
        return len(self.encoder) + len(self.decoder)

    def __str__(self) -> str:
        sides = (("encoder", self.encoder), ("decoder", self.decoder))
        return " and ".join(f"{name} {r.start}-{r.stop - 1}" for name, r in sides if r)


def cut_stages(dims: ModelDimensions, layer_counts: Sequence[int]) -> tuple[Stage, ...]:
    """Stages with these numbers of consecutive layers, encoder layers first.

    Raises:
        ShardingError: a stage would hold no layer, or the counts are not the model's layers.
    """
    check_pipeline_parallel(dims, len(layer_counts))
    n_layers = dims.n_audio_layer + dims.n_text_layer
    if min(layer_counts) < 1:
        raise ShardingError(f"each pipeline stage must hold a layer, not {list(layer_counts)}")
    if sum(layer_counts) != n_layers:
        raise ShardingError(
            f"stages of {list(layer_counts)} layers are {sum(layer_counts)} in all; the model has "
            f"{n_layers} ({dims.n_audio_layer} encoder, {dims.n_text_layer} decoder)"
        )
    stages, start = [], 0
    for count in layer_counts:
        stages.append(layers_between(dims, start, start + count))
        start += count
    return tuple(stages)


def check_stages(dims: ModelDimensions, stages: Sequence[Stage]) -> None:
    """Check that every layer is in one stage, in order.

    Raises:
        ShardingError: stages overlap, leave layers out, or hold none.
    """
    end = 0
    for index, stage in enumerate(stages):
        encoder = stage.encoder
        decoder = range(
            stage.decoder.start + dims.n_audio_layer, stage.decoder.stop + dims.n_audio_layer
        )
        parts = [part for part in (encoder, decoder) if part]
        if not parts:
            raise ShardingError(f"pipeline stage {index} holds no layer")
        for part in parts:
            if part.start != end:
                fault = "overlaps the one before" if part.start < end else "leaves layers out"
                raise ShardingError(f"pipeline stage {index} ({stage}) {fault}")
            end = part.stop
    if end != dims.n_audio_layer + dims.n_text_layer:
        raise ShardingError(f"{len(stages)} pipeline stages leave out the model's last layers")


def check_pipeline_parallel(dims: ModelDimensions, size: int) -> None:
    """Check that each of `size` stages gets a layer.

    Raises:
        ShardingError: there are more stages than layers.
    """
    n_layers = dims.n_audio_layer + dims.n_text_layer
    if not 1 <= size <= n_layers:
        raise ShardingError(
            f"pipeline_parallel must be 1 to {n_layers}, the model's number of layers "
            f"({dims.n_audio_layer} encoder, {dims.n_text_layer} decoder); got {size}"
        )


def check_tensor_parallel(dims: ModelDimensions, size: int) -> None:
    """Check that each of `size` ranks gets a head.

    Raises:
        ShardingError: there are more ranks than heads.
    """
    n_heads = min(dims.n_audio_head, dims.n_text_head)
    if not 1 <= size <= n_heads:
        raise ShardingError(
            f"tensor_parallel must be 1 to {n_heads}, the model's number of heads; got {size}"
        )


def group_sizes(stages: Sequence[Stage], n_slots: int) -> list[int]:
    """Slots in each slot group: one group for each stage that decodes, so that all stages have
    work, but no group without a slot."""
    n_groups = max(1, min(n_slots, sum(bool(stage.decoder) for stage in stages)))
    return [len(range(group, n_slots, n_groups)) for group in range(n_groups)]


def layers_between(dims: ModelDimensions, start: int, stop: int) -> Stage:
    """The stage of layers `start` to `stop` - 1 of [encoder layers, decoder layers]."""
    n_encoder = dims.n_audio_layer
    return Stage(
        range(min(start, n_encoder), min(stop, n_encoder)),
        range(max(start - n_encoder, 0), max(stop - n_encoder, 0)),
    )
