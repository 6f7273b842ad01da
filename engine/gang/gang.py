"""The leader of a gang: runs an engine's operations by giving orders to ranks."""

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt
import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from engine.config import EngineConfig
from engine.gang.encoding import GangEncoding
from engine.gang.lines import Lines
from engine.gang.orders import (
    Detect,
    Encoded,
    Order,
    RankReport,
    Release,
    Report,
    Values,
)
from engine.parallel.distributed import Mesh
from engine.parallel.stages import group_sizes
from engine.steps import Align, Begin, Decode


class _Awaited:
    """Values that the last stage is to send."""

    def __init__(self, take_answers: Callable[[bool], None]) -> None:
        self._take_answers = take_answers
        self._columns: Seq[npt.NDArray[np.generic]] | None = None

    @property
    def ready(self) -> bool:
        if self._columns is None:
            self._take_answers(False)
        return self._columns is not None

    def get(self) -> list[torch.Tensor]:
        while self._columns is None:
            self._take_answers(True)
        return [torch.from_numpy(column) for column in self._columns]

    def set(self, columns: Seq[npt.NDArray[np.generic]]) -> None:
        self._columns = columns


class Gang:
    """The ranks of a mesh as an engine's executor.

    Orders go to the ranks that they concern, in the same order everywhere. The last stage returns
    values in the order in which they were asked for.

    Args:
        store: where the ranks found each other; it has to outlive them.
        members: whatever else has to live as long as the gang.
    """

    def __init__(
        self, lines: Lines, mesh: Mesh, config: EngineConfig, store: Store, members: object = None
    ) -> None:
        self._kept_alive = (store, members)
        self.mesh = mesh
        self.n_groups = len(group_sizes(mesh.stages, config.max_slots))
        self.encoding = GangEncoding(self, config.encode_limit, config.max_slots)
        self._lines = lines
        self._decoders = [index for index, stage in enumerate(mesh.stages) if stage.decoder]
        self._awaited: deque[_Awaited] = deque()
        self._reports: list[RankReport] = []

    def detect_language(self, slot: int, adapter: int = 0) -> _Awaited:
        return self._ask(Detect(slot, adapter))

    def begin(self, step: Begin) -> _Awaited:
        return self._ask(step)

    def decode(self, step: Decode) -> _Awaited:
        return self._ask(step)

    def align(self, step: Align) -> _Awaited:
        return self._ask(step)

    def release(self, slot: int) -> None:
        self._order_decoders(Release(slot))

    def order(self, stage: int, order: Order) -> None:
        """Give an order to all ranks of a stage."""
        self._lines.send(self.mesh.ranks_of(stage), order)

    def take_answers(self, wait: bool = False) -> None:
        """Take in the ranks' answers; with `wait`, at least one.

        Raises:
            GangError: a rank failed, died or hangs.
        """
        while (item := self._lines.answer(wait)) is not None:
            wait = False
            rank, answer = item
            if isinstance(answer, Values):
                self._awaited.popleft().set(answer.columns)
            elif isinstance(answer, Encoded):
                self.encoding.on_encoded(answer.batch, self.mesh.stage_of(rank))
            elif isinstance(answer, RankReport):
                self._reports.append(answer)

    def report(self) -> list[RankReport]:
        """Each rank's report since the last one, by rank. Returns when all orders are done."""
        self._reports = []
        self._lines.send(range(self.mesh.size), Report())
        while len(self._reports) < self.mesh.size:
            self.take_answers(wait=True)
        return sorted(self._reports, key=lambda report: report.rank)

    def check(self) -> None:
        self._lines.check()

    def close(self) -> None:
        self._lines.close()

    def _ask(self, order: Order) -> _Awaited:
        awaited = _Awaited(self.take_answers)
        self._awaited.append(awaited)
        self._order_decoders(order)
        return awaited

    def _order_decoders(self, order: Order) -> None:
        ranks = [rank for stage in self._decoders for rank in self.mesh.ranks_of(stage)]
        self._lines.send(ranks, order)
