"""How much memory a rank's share of adapters takes: arithmetic on sizes, as in `shares`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.parallel.low_rank import padded_rank
from engine.parallel.shares import LayerShare, LinearShare, RankShare
from engine.weights.adapters import Adapter

_NUMBER_BYTES = 8
"""Of the number that says whose a row of the stacked matrices is."""


@dataclass(frozen=True, slots=True)
class _Fused:
    """Linear layers with one input, which are computed as one.

    Attributes:
        names: in their layer.
        n_out: of each of them.
        many_rows: rows of windows pass through them.
    """

    names: tuple[str, ...]
    n_out: int
    n_in: int
    many_rows: bool


def adapter_bytes(share: RankShare, adapters: Sequence[Adapter]) -> int:
    """Bytes of what adapters add to a rank's layers."""
    if not adapters:
        return 0
    stage, total = share.stage, 0
    sides = (("encoder", stage.encoder, share.encoder), ("decoder", stage.decoder, share.decoder))
    for side, layers, layer_share in sides:
        for index in layers:
            for fused in _fused_of(layer_share):
                names = [f"{side}.layers.{index}.{name}" for name in fused.names]
                total += _fused_bytes(share, fused, names, adapters)
    return total


def adapter_peak_bytes(
    share: LayerShare, rows: float, adapters: Sequence[Adapter], side: str
) -> float:
    """Activations that additions to a layer of one side need beside the layer's own: the widest
    output once more, and with additions before the MLP's GELU also before it and behind it."""
    layers = [layer for each in adapters for layer in each.layers if layer.startswith(side)]
    if not layers:
        return 0.0
    has_hidden = any(layer.endswith(".fc1") for layer in layers)
    width = 3 * share.hidden if has_hidden else 3 * max(share.columns, share.width)
    return rows * width * share.formats.dtype.itemsize


def _fused_of(share: LayerShare) -> Iterator[_Fused]:
    width, columns, hidden = share.width, share.columns, share.hidden
    many = share.is_encoder
    own = ("q_proj", "k_proj", "v_proj")
    yield _Fused(tuple(f"self_attn.{name}" for name in own), columns, width, many)
    yield _Fused(("self_attn.out_proj",), width, columns, many)
    yield _Fused(("fc1",), hidden, width, many)
    yield _Fused(("fc2",), width, hidden, many)
    if not share.is_encoder:
        yield _Fused(("encoder_attn.q_proj",), columns, width, False)
        yield _Fused(("encoder_attn.k_proj", "encoder_attn.v_proj"), columns, width, True)
        yield _Fused(("encoder_attn.out_proj",), width, columns, False)


def _fused_bytes(
    share: RankShare, fused: _Fused, names: Sequence[str], adapters: Sequence[Adapter]
) -> int:
    def pair(rank: int, n_out: int, n_downs: int = 1) -> int:
        padded = padded_rank(rank, share.formats.product)
        down = LinearShare(n_downs * padded, fused.n_in, has_bias=False)
        ups = n_downs * LinearShare(n_out, padded, has_bias=False).n_bytes(share.formats)
        return down.n_bytes(share.formats) + ups

    present = [(each.rank, sum(name in each.layers for name in names)) for each in adapters]
    if fused.many_rows:
        return sum(pair(rank, fused.n_out, n) for rank, n in present if n)
    stacked = sum(rank * n for rank, n in present)
    if not stacked:
        return 0
    owners = _NUMBER_BYTES * padded_rank(stacked, share.formats.product)
    return pair(stacked, len(names) * fused.n_out) + owners
