"""What a tier runs (`TierSpec`), and what its replicas say of themselves (`TierInfo`)."""

from dataclasses import dataclass

from engine import CrossAttentionMode, EngineConfig, Offload, Precision


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a replica's model is split over several devices.

    Args:
        tensor_parallel: ranks that share each layer.
        accelerators: class of each pipeline stage's devices.
        stage_layers: layers of each stage, encoder layers first; none: evened out by a cost model.
        shard_bundles: the bundle of the replica's placement group that each rank runs in.
        silent_s: a rank that answers nothing for so long hangs.
    """

    tensor_parallel: int
    accelerators: tuple[str, ...]
    stage_layers: tuple[int, ...]
    shard_bundles: tuple[int, ...]
    silent_s: float


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One engine of a tier.

    Args:
        name: the tier's, in metrics and in results.
        model: as `engine.resolve_model` takes it.
        device: a torch device.
        precision: None: the default of the device.
        max_slots: chunks decoded at once.
        threads: CPU threads to compute with; of each rank, if there are several.
        sharding: None: one device has the whole model.
        cross_attention, int8_self_attention, encode_batch, max_length, offload: as in
            `engine.EngineConfig`.
    """

    name: str
    model: str
    device: str
    precision: Precision | None
    max_slots: int
    threads: int
    sharding: Sharding | None = None
    cross_attention: CrossAttentionMode | None = None
    int8_self_attention: bool = False
    encode_batch: int | None = None
    max_length: int | None = None
    offload: Offload = Offload.NONE

    def engine_config(self, default: Precision) -> EngineConfig:
        """
        Args:
            default: precision, where the tier names none.
        """
        return EngineConfig(
            device=self.device,
            precision=self.precision or default,
            cross_attention=self.cross_attention,
            int8_self_attention=self.int8_self_attention,
            max_slots=self.max_slots,
            encode_batch=self.encode_batch,
            max_length=self.max_length,
            offload=self.offload,
        )


@dataclass(frozen=True, slots=True)
class TierInfo:
    """What an ingress has to know of a tier's model.

    Attributes:
        languages: ISO codes that it transcribes.
        multilingual: whether it detects languages and translates.
    """

    model: str
    precision: str
    languages: tuple[str, ...]
    multilingual: bool
    max_slots: int
