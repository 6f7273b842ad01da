"""What adapters add to linear layers: y + scale * (x A) B, for each row by its own adapter.

On a rank of a tensor-parallel group, A or B is cut like its layer: B by output features, A by input
features. In the second case a rank's addition is a part of the sum over the ranks, as its product
is, so it needs no further exchange.

Adapters are numbered from 1 in the order in which they were loaded; 0 is none.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from engine.kernels.linear import LinearKernel, float_linear
from engine.weights.source import LoadContext

Chosen = int | torch.Tensor | None
"""Which adapters rows have: one for all rows of windows; (batch,) int64 numbers for those of
tokens, 0 for none; None: no row has one, and the layer computes as if there were no adapters."""


Plain = Callable[[], torch.Tensor]


class Deltas(nn.Module, ABC):
    """The additions of all adapters to a layer, or to several that are fused."""

    @abstractmethod
    def serves(self, chosen: Chosen) -> bool:
        """Whether any row may get an addition."""

    @abstractmethod
    def add_to(self, y: torch.Tensor, x: torch.Tensor, chosen: Chosen) -> torch.Tensor:
        """The layer's output (..., out) with the additions for its input (..., in). Rows without an
        adapter keep their bits."""

    @abstractmethod
    def through_gelu(
        self, kernel: LinearKernel, x: torch.Tensor, chosen: Chosen, plain: Plain
    ) -> torch.Tensor:
        """The GELU of the layer's output with the additions.

        Args:
            plain: computes the same without additions. Kernels round a GELU in their own ways, and
                rows without an adapter keep that one's.
        """


class WindowDeltas(Deltas):
    """Of a layer for windows, which all have the same adapter: only its additions are computed.

    Args:
        parts: for each adapter and each fused layer A, (rank, in), and B, (out, rank); None where
            the adapter adds nothing.
    """

    def __init__(self, parts: Sequence[Sequence["Pair | None"]], make: "MakeProduct") -> None:
        super().__init__()
        self.of_adapter = nn.ModuleDict()
        for number, pairs in enumerate(parts, start=1):
            if any(pair is not None for pair in pairs):
                self.of_adapter[str(number)] = _WindowDelta(pairs, make)

    def serves(self, chosen: Chosen) -> bool:
        return str(chosen) in self.of_adapter

    def add_to(self, y: torch.Tensor, x: torch.Tensor, chosen: Chosen) -> torch.Tensor:
        out: torch.Tensor = self.of_adapter[str(chosen)](y, x)
        return out

    def through_gelu(
        self, kernel: LinearKernel, x: torch.Tensor, chosen: Chosen, plain: Plain
    ) -> torch.Tensor:
        return F.gelu(self.add_to(kernel(x), x, chosen))


class _WindowDelta(nn.Module):
    def __init__(self, pairs: Sequence["Pair | None"], make: "MakeProduct") -> None:
        super().__init__()
        present = [(part, pair) for part, pair in enumerate(pairs) if pair is not None]
        self._parts = [part for part, _ in present]
        self._n_parts = len(pairs)
        rank = make.padded(present[0][1][0].shape[0])
        self.down = make(torch.cat([_padded(down, rank, 0) for _, (down, _) in present]))
        self.up = nn.ModuleList(make(_padded(up, rank, 1)) for _, (_, up) in present)

    def forward(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Adds in place."""
        outputs = y.chunk(self._n_parts, dim=-1)
        inner = self.down(x).chunk(len(self._parts), dim=-1)
        for part, up, low in zip(self._parts, self.up, inner, strict=True):
            outputs[part].add_(up(low))
        return y


class TokenDeltas(Deltas):
    """Of a layer for tokens, each of which may have another adapter.

    All adapters are stacked: one product with every A, in which the values of other adapters than a
    row's own are set to zero, and one with every B. So shapes do not depend on who is in the batch,
    and neither do a row's bits, because a sum of the same terms in the same order gets exact zeros.

    Args:
        parts: as of `WindowDeltas`.
        widths: output features of each fused layer.
    """

    owners: torch.Tensor

    def __init__(
        self,
        parts: Sequence[Sequence["Pair | None"]],
        widths: Sequence[int],
        make: "MakeProduct",
    ) -> None:
        super().__init__()
        starts = [sum(widths[:part]) for part in range(len(widths) + 1)]
        downs, ups, owners = [], [], []
        for number, pairs in enumerate(parts, start=1):
            for part, pair in enumerate(pairs):
                if pair is not None:
                    down, up = pair
                    downs.append(down)
                    around = (0, 0, starts[part], starts[-1] - starts[part + 1])
                    ups.append(F.pad(up, around))
                    owners += [number] * len(down)
        rank = make.padded(len(owners))
        self.down = make(_padded(torch.cat(downs), rank, 0))
        self.up = make(_padded(torch.cat(ups, dim=1), rank, 1))
        # No adapter has the number of the padding.
        numbers = torch.tensor(owners + [-1] * (rank - len(owners)))
        self.register_buffer("owners", numbers.to(make.device))

    def serves(self, chosen: Chosen) -> bool:
        return chosen is not None

    def add_to(self, y: torch.Tensor, x: torch.Tensor, chosen: Chosen) -> torch.Tensor:
        assert isinstance(chosen, torch.Tensor), "tokens have an adapter each"
        numbers = chosen.view(-1, *[1] * (x.dim() - 1))
        inner = self.down(x).masked_fill(numbers != self.owners, 0.0)
        # Not a sum alone: it would turn a negative zero into a positive one.
        return torch.where(numbers > 0, y + self.up(inner).to(y.dtype), y)

    def through_gelu(
        self, kernel: LinearKernel, x: torch.Tensor, chosen: Chosen, plain: Plain
    ) -> torch.Tensor:
        assert isinstance(chosen, torch.Tensor), "tokens have an adapter each"
        adapted = F.gelu(self.add_to(kernel(x), x, chosen))
        return torch.where(chosen.view(-1, *[1] * (x.dim() - 1)) > 0, adapted, plain())


Pair = tuple[torch.Tensor, torch.Tensor]


class MakeProduct:
    """Makes the kernels of additions, in the number format that the device multiplies."""

    def __init__(self, context: LoadContext, many_rows: bool) -> None:
        self.device = context.device
        self._dtype = context.dtype
        self._product = context.formats.product
        self._many_rows = many_rows

    def __call__(self, weight: torch.Tensor) -> LinearKernel:
        kept = weight.to(self.device, self._product).contiguous()
        return float_linear(kept, None, self._dtype, self._product, self._many_rows)

    def padded(self, rank: int) -> int:
        return padded_rank(rank, self._product)


def padded_rank(rank: int, product: torch.dtype) -> int:
    """A rank that the kernels take: our own multiply 32 numbers of bfloat16 at once, and GPUs 8."""
    return rank + -rank % (32 if product == torch.bfloat16 else 8)


def load_deltas(
    context: LoadContext,
    names: Sequence[str],
    many_rows: bool,
    rows: slice | None = None,
    columns: slice | None = None,
) -> Deltas | None:
    """What adapters add to the layers `names`, which are fused; None if none of them adds anything.

    Args:
        many_rows: rows of windows pass through the layers, not those of tokens.
        rows, columns: the rank's output or input features.
    """
    parts: list[list[Pair | None]] = []
    for adapter in context.adapters:
        pairs: list[Pair | None] = []
        for name in names:
            if name not in adapter.layers:
                pairs.append(None)
                continue
            down, up = adapter.matrices(name)
            pairs.append((down[:, columns or slice(None)], up[rows or slice(None)]))
        parts.append(pairs)
    present = [pair for pairs in parts for pair in pairs if pair is not None]
    if not present:
        return None
    make = MakeProduct(context, many_rows)
    if many_rows:
        return WindowDeltas(parts, make)
    return TokenDeltas(parts, [len(present[0][1])] * len(names), make)


def _padded(matrix: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    """With zeros up to a rank."""
    missing = rank - matrix.shape[dim]
    return F.pad(matrix, (0, missing) if dim else (0, 0, 0, missing))
