"""What a tier runs (`TierSpec`), and what its replicas report about their model (`TierInfo`).

The spec of a tier travels in the environment of its replicas (`SPEC_VARIABLE`), because Serve
replaces the replicas of a single deployment only where the options of their actors have changed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from pydantic import TypeAdapter

from engine import CrossAttentionMode, EngineConfig, Offload, Precision, Window

SPEC_VARIABLE = "MURMUR_TIER"
"""Environment variable of a replica: its `TierSpec` as JSON."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a replica's model is split over several devices.

    Args:
        tensor_parallel: number of ranks that share each layer.
        accelerators: class of the devices of each pipeline stage.
        stage_layers: number of layers of each stage, encoder layers first; empty: a cost model
            balances the stages.
        shard_bundles: for each rank, the index of its bundle in the replica's placement group.
        silent_s: a rank that does not answer for this long counts as hung.
    """

    tensor_parallel: int
    accelerators: tuple[str, ...]
    stage_layers: tuple[int, ...]
    shard_bundles: tuple[int, ...]
    silent_s: float


@dataclass(frozen=True, slots=True)
class TierSpec:
    """Settings of the engine of each of a tier's replicas.

    Args:
        name: name of the tier, in metrics and in results.
        model: a model name that `engine.resolve_model` accepts.
        device: a torch device.
        precision: None: the device's default.
        max_slots: number of chunks decoded at once.
        threads: CPU threads to compute with; per rank, if there are several ranks.
        threads_when_idle: CPU threads to compute with at most while there is little to do and the
            machine has idle cores; None: `threads`.
        sharding: None: one device holds the whole model.
        adapters: name and folder of each adapter of the model.
        cross_attention, int8_self_attention, encode_batch, max_length, offload, window: as in
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
    window: Window = Window.EXACT
    threads_when_idle: int | None = None
    adapters: tuple[tuple[str, str], ...] = ()

    def engine_config(self, default: Precision) -> EngineConfig:
        """The configuration of this engine.

        Args:
            default: precision to use if the tier does not set one.
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
            window=self.window,
        )

    def to_json(self) -> str:
        """All that differs from the defaults, as one JSON object."""
        values = asdict(self)
        default = {field.name: field.default for field in fields(self)}
        return json.dumps({name: v for name, v in values.items() if v != default[name]})

    @property
    def version(self) -> str:
        """Differs between specs that need different engines."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def spec_of(environment: Mapping[str, str]) -> TierSpec:
    """The spec that a replica finds in its environment.

    Raises:
        ValueError: there is none, or it is malformed.
    """
    text = environment.get(SPEC_VARIABLE)
    if text is None:
        raise ValueError(f"{SPEC_VARIABLE} is not set: a replica finds there what it runs")
    return TypeAdapter(TierSpec).validate_json(text)


@dataclass(frozen=True, slots=True)
class TierInfo:
    """What an ingress needs to know about a tier's model.

    Attributes:
        version: `TierSpec.version` of the replica that says so.
        languages: ISO codes of the languages that the model transcribes.
        multilingual: whether the model detects languages and translates.
        max_texts: texts of a chunk that can be decoded side by side.
    """

    model: str
    precision: str
    languages: tuple[str, ...]
    multilingual: bool
    max_slots: int
    max_texts: int = 1
    version: str = ""
